"""The migrations, in the order of their numbers. Installed as `hopper_data._migrations`."""
