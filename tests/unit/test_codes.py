"""Error codes at the end of error messages."""

from __future__ import annotations

import pytest

from flux_contract.codes import CODES, error_of, sendable, with_code, without_code
from flux_contract.errors import FluxError, GenerationFailed, InvalidRequest, Overloaded

#: Callers of the server never receive the other errors: the client raises them itself, or they prevent the start.
ELSEWHERE = {"Unreachable", "CannotStart"}


def test_every_error_that_a_server_answers_has_a_code() -> None:
    assert {error.__name__ for error in CODES} == {error.__name__ for error in FluxError.__subclasses__()} - ELSEWHERE


@pytest.mark.parametrize("code", sorted(set(CODES.values())))
@pytest.mark.parametrize("words", ["flux_base: SEED=-2", "two\nlines", "(brackets)", "", "words (CODE)"])
def test_a_code_is_taken_off_as_it_was_put_on(words: str, code: str) -> None:
    assert with_code(words, code) == f"{words} ({code})"
    assert without_code(with_code(words, code)) == (words, code)


def test_a_caller_s_text_that_ends_with_a_code_does_not_change_the_error() -> None:
    words = "flux_base: LORA='a (UNAVAILABLE)', expected one of: b (UNAVAILABLE)"
    error = error_of(with_code(words, "INVALID_ARG"))
    assert (type(error), str(error)) == (InvalidRequest, words)


@pytest.mark.parametrize("text", ["plain", "ü 画 🙂", "\udcc3\udcbc", "a\0b", "画" * 5000, "\udcfc" * 5000, ""])
def test_a_message_is_utf8_and_fits_into_grpc_s_trailers(text: str) -> None:
    sent = sendable(text)
    assert len(sent.encode()) <= 2000
    assert sent == text or "\\udc" in sent or sent.endswith(" ...")


@pytest.mark.parametrize("code", sorted(set(CODES.values())))
def test_an_error_that_came_back_in_words_has_its_code_again(code: str) -> None:
    error = error_of(f"flux_base: no ({code})")
    assert CODES[type(error)] == code
    assert str(error) == "flux_base: no"


def test_time_that_ran_out_and_a_full_queue_are_one_code() -> None:
    assert type(error_of("full (UNAVAILABLE)")) is Overloaded
    assert type(error_of("words of somebody else")) is GenerationFailed


@pytest.mark.parametrize("words", ["flux_base: bug", "bug(INTERNAL)", "bug (INTERNAL) here", "bug (internal)", ""])
def test_words_without_a_code_stay_as_they_are(words: str) -> None:
    assert without_code(words) == (words, None)
