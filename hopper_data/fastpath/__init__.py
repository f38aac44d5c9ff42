"""What is hot, near the driver: SQL that is written once, rows in and out by generated code.

Nothing here knows a query or a model of its own. Peewee writes each statement, once for each shape
of a question; the code for the rows of a model is made from its fields, the first time that it is
needed. What a repository answers is the same without it, which `disabled()` is for:

- `statements.py` keeps the text of a statement, to be run again with other values;
- `reading.py` makes true models of rows;
- `checking.py` makes normalized rows of a caller's values;
- `writing.py` makes parameters of those;
- `generating.py` is what the modules that write code have in common.
"""

from hopper_data.fastpath.checking import new_row
from hopper_data.fastpath.reading import build_models, without_collection
from hopper_data.fastpath.statements import Outline, Statements, disabled, is_enabled
from hopper_data.fastpath.writing import parameters, row_parameters

__all__ = [
    "Outline",
    "Statements",
    "build_models",
    "disabled",
    "is_enabled",
    "new_row",
    "parameters",
    "row_parameters",
    "without_collection",
]
