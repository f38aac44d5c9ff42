"""Settings of `pw_migrate`: the environment's database, and the router that makes it safe."""

from hopper_data.migrations import use_safe_router

DATABASE = use_safe_router()
