"""Where the rows of a tensor lie, and which layouts no kernel takes."""

import pytest
import torch

from unet_motion.ops.layout import not_rows, row_stride

STRIDED, SEVERAL = "its last axis is strided", "its rows lie at several distances"


@pytest.mark.parametrize(
    ("make", "distance", "why"),
    [
        (lambda: torch.empty(5, 3), 3, None),
        (lambda: torch.empty(2, 5, 3), 3, None),
        (lambda: torch.empty(4, 8)[:, 2:5], 8, None),
        (lambda: torch.empty(2, 4, 8)[..., :3], 8, None),
        (lambda: torch.empty(4, 8)[::2], 16, None),
        (lambda: torch.empty(4, 6, 8)[:, :3], None, SEVERAL),
        (lambda: torch.empty(4, 6, 8)[:, :1], 48, None),
        (lambda: torch.empty(3, 4, 8).transpose(0, 1), None, SEVERAL),
        (lambda: torch.empty(6, 4).t(), 1, STRIDED),
        (lambda: torch.empty(4, 8)[:, ::2], 8, STRIDED),
        (lambda: torch.empty(4, 8)[:, 3:4], 8, None),
        (lambda: torch.empty(1, 1, 7), 7, None),
        (lambda: torch.empty(7), 7, None),
    ],
)
def test_rows_at_one_distance(make, distance, why):
    assert row_stride(make()) == distance and not_rows(make()) == why
