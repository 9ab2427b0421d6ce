"""The translator of the user's, by which steps become assets (`--translator`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.import_paths import is_import_path, load
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from metaflow_pipes.compile.job_model import ImportModel
    from metaflow_pipes.compile.job_options import JobOptions


def translator_of(options: JobOptions) -> ImportModel | None:
    """The translator that the options name, or None.

    Raises:
        CompileError: It can't be imported, or is no translator.
    """
    path = options.translator
    if path is None:
        return None
    if not is_import_path(path):
        raise CompileError(f"--translator is {path!r}. Use the import path of a class: package.module:ShopTranslator.")
    imported, translator = load("--translator", path, alias="custom_translator")
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

    if not (isinstance(translator, type) and issubclass(translator, DagsterMetaflowTranslator)):
        raise CompileError(f"--translator {path} is no subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator.")
    return imported


def overridden_by_translator(options: JobOptions) -> frozenset[str]:
    """The names of the methods that the user's translator has of its own.

    Raises:
        CompileError: As for `translator_of`.
    """
    if translator_of(options) is None:
        return frozenset()
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

    _, translator = load("--translator", options.translator or "", alias="custom_translator")
    return frozenset(
        name
        for name in vars(DagsterMetaflowTranslator)
        if not name.startswith("_") and getattr(translator, name) is not getattr(DagsterMetaflowTranslator, name)
    )


def refuse_said_twice(options: JobOptions, option: str, method: str) -> None:
    """Refuse an option that is given if the translator says the same.

    Args:
        options: What the user asks for.
        option: The option, as on the command line.
        method: The translator's method.

    Raises:
        CompileError: It does.
    """
    if method in overridden_by_translator(options):
        raise CompileError(
            f"{option} is given, and the translator {options.translator} has {method}, which says the same. Use one of "
            "them."
        )
