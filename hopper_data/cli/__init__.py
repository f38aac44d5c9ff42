"""The command line, `hopper-data`: arguments in, printing out.

What a command does lies elsewhere; here are its options, and how its result looks as a table and
as JSON. Click and Rich are imported in this package alone.
"""
