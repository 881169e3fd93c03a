"""The tile plan: full cover, equal tiles, weights that sum to one, borders that move, and its cost."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creative_upscaler.pipelines.tiling import Tile, padded_length, plan_grid

SIDES = st.integers(1, 1100)


def plan(height: int, width: int, smallest: int = 64, largest: int = 96, overlap: int = 16):
    height, width = (padded_length(side, largest, 8) for side in (height, width))
    return plan_grid(height, width, smallest=smallest, largest=largest, overlap=overlap)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.integers(0, 30))
def test_weights_sum_to_one_at_every_position_of_every_step(height, width, step):
    grid = plan(height, width)
    total = torch.zeros(grid.rows.length, grid.columns.length)
    for tile, weight in grid.at_step(step).weighted():
        assert (tile.height, tile.width) == (grid.rows.tile, grid.columns.tile) == tuple(weight.shape)
        assert weight.min() >= 0
        tile.crop(total).add_(weight)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(97, 2000), st.integers(8, 40), st.integers(0, 30))
def test_neighbours_overlap_by_what_was_asked_less_a_quarter_for_movement(length, overlap, step):
    grid = plan_grid(length, 64, smallest=80, largest=96, overlap=overlap)
    nominal = grid.rows.starts()
    moved = sorted({tile.top for tile in grid.at_step(step).tiles})
    assert len(grid) == grid.rows.count == len(moved)
    for starts, least in ((nominal, overlap), (moved, int(0.75 * overlap))):
        assert starts[0] == 0 and starts[-1] + grid.rows.tile == length
        assert all(a + grid.rows.tile - b >= least for a, b in pairwise(starts))


def test_weights_vanish_towards_inner_borders_and_are_smooth():
    grid = plan(256, 256)
    arrangement = grid.at_step(0)
    inner = arrangement.row_weights[1]
    assert inner[0] < 0.05 and inner[-1] < 0.05 and inner[len(inner) // 2] > 0.999
    assert (inner[1:] - inner[:-1]).abs().max() < 0.2


def test_borders_move_between_steps_even_where_tiles_cannot():
    for size in (128, 256, 1024):
        grid = plan(size, size)
        profiles = [grid.at_step(step).row_weights for step in range(10)]
        crossings = {round(float(weights[0].sum()), 2) + sum(grid.rows.starts()) for weights in profiles}
        assert len(crossings) >= 8, size
    inner_starts = {grid.at_step(step).tiles[len(grid) // 2].top for step in range(10)}
    assert len(inner_starts) >= 4


def test_arrangements_are_reproducible():
    first, again = (plan(300, 200).at_step(3) for _ in range(2))
    assert first.tiles == again.tiles and torch.equal(first.row_weights, again.row_weights)


def test_a_small_canvas_is_one_tile_as_large_as_itself():
    for height, width in ((1, 1), (8, 90), (96, 40)):
        grid = plan(height, width)
        (tile,) = grid.at_step(5).tiles
        assert tile == Tile(0, 0, -(-height // 8) * 8, -(-width // 8) * 8)
        assert all(torch.equal(weight, torch.ones_like(weight)) for _, weight in grid.at_step(5).weighted())


def test_a_long_narrow_canvas_does_not_become_one_huge_tile():
    grid = plan(600, 24)
    assert grid.rows.tile <= 96 and grid.columns.tile == 24


def test_plans_cost_at_most_what_equal_split_needs():
    # The cheapest exact splits of 1024² and 2048² pixels at 16 latents of overlap.
    for latents, most in ((128, 4 * 72**2), (256, 9 * 96**2)):
        grid = plan(latents, latents)
        assert len(grid) * grid.rows.tile * grid.columns.tile <= most


def test_an_overlap_wider_than_half_a_tile_is_refused():
    with pytest.raises(ValueError, match="needs tiles of 120"):
        plan_grid(300, 300, smallest=64, largest=96, overlap=60)


@settings(max_examples=100, deadline=None)
@given(st.integers(137, 1100))
def test_without_dearer_large_tiles_no_tile_could_be_left_out(length):
    few = plan_grid(length, 64, smallest=64, largest=136, overlap=8, growth=0.0).rows
    usual = plan_grid(length, 64, smallest=64, largest=136, overlap=8).rows
    assert few.count * few.tile <= usual.count * usual.tile
    assert few.count <= usual.count
