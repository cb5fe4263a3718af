"""Options classes whose fields declare their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import GUIDANCE_SCALE, IMAGE_DETAIL, IMAGE_FIT, PROMPT
from flux_serving.backend.option_values import read_declared, read_declared_each


@dataclass(frozen=True)
class Single:
    guidance: Annotated[float, GUIDANCE_SCALE]
    prompt: Annotated[str, PROMPT]
    other: int = 3


@dataclass(frozen=True)
class OfEach:
    detail: Annotated[int, IMAGE_DETAIL]
    fit: Annotated[str, IMAGE_FIT]


def test_a_declared_field_is_read_from_its_tensor() -> None:
    values = {"GUIDANCE_SCALE": np.array([3], np.float32), "PROMPT": np.array([b"a disc"], np.object_)}
    assert Single(**read_declared(values, Single)) == Single(3.0, "a disc")


def test_absent_tensor_returns_its_default() -> None:
    assert Single(**read_declared({}, Single)) == Single(2.5, "")
    assert read_declared_each({}, OfEach, 1) == [{"detail": 1, "fit": "stretch"}]


def test_each_image_has_its_own_value_or_shares_one() -> None:
    values = {"IMAGE_DETAIL": np.array([2], np.int32), "IMAGE_FIT": np.array([b"cover", b"tiles"], np.object_)}
    found = [OfEach(**of_one) for of_one in read_declared_each(values, OfEach, 2)]
    assert found == [OfEach(2, "cover"), OfEach(2, "tiles")]
    assert read_declared_each({}, OfEach, 0) == []


def test_text_that_is_not_utf_8_is_invalid() -> None:
    with pytest.raises(InvalidRequest, match="PROMPT is not UTF-8"):
        read_declared({"PROMPT": np.array([b"\xff"], np.object_)}, Single)
