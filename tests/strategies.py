"""What property tests sample from. Apart from `helpers`, which a machine without hypothesis needs too."""

from __future__ import annotations

from hypothesis import strategies as st

from hart.grids import Grid, ScaleSchedule, sizes_ending_at

# Sizes of square schedules of latents up to 7 x 7.
sizes = st.sets(st.integers(2, 7), min_size=1, max_size=4).map(lambda chosen: (1, *sorted(chosen)))
# Latents of any shape, 2 x 2 to 9 x 9.
grids = st.builds(Grid, st.integers(2, 9), st.integers(2, 9))
# Schedules of latents of any shape; those of squares are as they are given.
schedules = st.one_of(
    sizes.map(ScaleSchedule.square),
    st.builds(lambda own, grid: ScaleSchedule.shaped(sizes_ending_at(own, grid.equal_square), grid), sizes, grids),
)
