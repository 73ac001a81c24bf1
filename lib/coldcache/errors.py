"""What can go wrong, named after the user's mistake or misfortune.

ColdcacheError                 exit 1    coldcache could not do its work
├── ServerUnreachableError               nobody answers at the URL
├── ServerRefusedError                   the server answers, but will not let us do it
├── ServerStartError                     the embedded server did not come up
├── RecordingFailedError                 the recording broke before it held anything
├── ImportFailedError                    the case of an import cannot be written
├── MissingExtraError                    an optional package is not installed
├── NotebookFailedError                  a cell raised, timed out, or its kernel died
└── UsageError                 exit 64   the arguments or parameters are wrong
    ├── CaseExistsError                  the folder to write is already there
    ├── NotACaseError                    the folder to read holds no case
    ├── NotALogError                     the file to import is no MONITOR log
    ├── UnfinishedCaseError              the recording was cut off, or is still going on
    ├── DamagedCaseError                 it was a case, but a table of it cannot be read
    ├── UrlError                         the server URL is missing or malformed
    ├── ProcessNotFoundError             no process has that PID
    ├── UnknownNameError                 a fault, notebook or mode that does not exist
    ├── UnknownParameterError            a parameter that the notebook does not declare
    └── ParameterTypeError               a parameter value of the wrong type

A bug in coldcache stays an ordinary exception, with its traceback. No message here ever holds
a value of a connection URL: it may carry a password.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ColdcacheError(Exception):
    """Something a user can act on: what, where, and what to do next, in one message."""

    exit_code = 1


class ServerUnreachableError(ColdcacheError):
    """No server answers at the address."""


class ServerRefusedError(ColdcacheError):
    """The server answers and refuses a command that the recording needs."""


class ServerStartError(ColdcacheError):
    """The embedded server of the lab did not come up."""


class RecordingFailedError(ColdcacheError):
    """The recording ended before it held anything worth keeping."""


class ImportFailedError(ColdcacheError):
    """The case that files are imported into cannot be written."""


class SchedulerError(ColdcacheError):
    """The Dask cluster that was to do the work does not answer, or lost its workers."""


class MissingExtraError(ColdcacheError):
    """An optional part of coldcache is not installed."""


class NotebookFailedError(ColdcacheError):
    """A notebook did not run to its end, or ended without a verdict."""


class UsageError(ColdcacheError):
    """The arguments or parameters are wrong."""

    exit_code = 64


class CaseExistsError(UsageError):
    """The case folder to be written already exists."""


class NotACaseError(UsageError):
    """The folder holds no case."""


class NotALogError(UsageError):
    """The file is no MONITOR log in any dialect known here; the message says what it looks like and what to do."""


class UnfinishedCaseError(UsageError):
    """The recording of the case was cut off and its tables were never made, or it is still going on."""


class DamagedCaseError(UsageError):
    """A file of the case is missing or cannot be read."""


class UrlError(UsageError):
    """The server URL is missing or malformed."""


class ProcessNotFoundError(UsageError):
    """No process with that PID can be seen from here."""


class UnknownNameError(UsageError):
    """A fault, notebook, table or mode that does not exist."""


class UnknownParameterError(UsageError):
    """A parameter that the notebook does not declare."""


class ParameterTypeError(UsageError):
    """A parameter value that does not convert to the declared type."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    nearest = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
