"""Errors: one root, standard exceptions, three-part messages."""

from __future__ import annotations

import errno
import inspect

import pytest

from pyro_turbovbi import TurboVBIError, errors

STANDARD = {
    "InvalidArgumentError": ValueError,
    "InvalidDataError": ValueError,
    "ShapeError": ValueError,
    "SiteError": ValueError,
    "SpecError": ValueError,
    "UnsupportedError": RuntimeError,
    "NumericalError": RuntimeError,
    "VerificationError": RuntimeError,
    "ArtifactError": ValueError,
    "StorageError": OSError,
    "MissingFileError": FileNotFoundError,
    "CheckpointError": RuntimeError,
    "DistributedError": RuntimeError,
    "DataNotFoundError": FileNotFoundError,
    "DownloadError": ConnectionError,
}


def test_every_error_has_the_root_and_a_standard_exception() -> None:
    found = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, TurboVBIError)
    }
    assert set(found) == {"TurboVBIError", *STANDARD}
    for name, standard in STANDARD.items():
        assert issubclass(found[name], standard)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "no"),
        ({"given": 3}, "no; given: 3"),
        ({"given": "as it is"}, "no; given: as it is"),
        ({"given": ["a"]}, "no; given: ['a']"),
        ({"given": 0}, "no; given: 0"),
        ({"accepted": "this"}, "no; accepted: this"),
        ({"accepted": (1, "b")}, "no; accepted: 1, b"),
        ({"accepted": {"a": 1, "b": 2}}, "no; accepted: a, b"),
        ({"given": 3, "accepted": iter([1, 2])}, "no; given: 3; accepted: 1, 2"),
    ],
)
def test_message_says_problem_given_and_accepted(parts: dict[str, object], message: str) -> None:
    error = errors.ShapeError("no", **parts)  # type: ignore[arg-type]
    assert str(error) == message
    assert error.problem == "no"
    assert error.given == parts.get("given")
    assert error.accepted is parts.get("accepted")


def test_an_error_is_caught_as_its_standard_exception() -> None:
    with pytest.raises(ValueError, match="no"):
        raise errors.InvalidDataError("no")
    with pytest.raises(OSError, match="no"):
        raise errors.DataNotFoundError("no")


def test_a_storage_error_carries_what_the_operating_system_said() -> None:
    cause = OSError(errno.ENOSPC, "No space left on device")
    error = errors.StorageError.of("the file cannot be written", "/full/file", cause)
    assert error.errno == errno.ENOSPC
    assert str(error) == ("the file cannot be written: No space left on device; given: /full/file")


def test_a_missing_file_is_what_python_calls_it_too() -> None:
    cause = FileNotFoundError(errno.ENOENT, "No such file or directory")
    error = errors.StorageError.of("the file cannot be read", "none", cause)
    assert isinstance(error, errors.MissingFileError)
    assert error.errno == errno.ENOENT
    assert str(error) == "the file cannot be read: No such file or directory; given: none"


def test_warnings_have_a_root_that_is_a_user_warning() -> None:
    for category in (errors.TrainingWarning, errors.CheckpointWarning):
        assert issubclass(category, errors.TurboVBIWarning)
    assert issubclass(errors.TurboVBIWarning, UserWarning)
