"""What property tests sample from. Apart from `helpers`, which a machine without hypothesis needs too."""

from __future__ import annotations

from hypothesis import strategies as st

# Scale schedules of latents up to 7 x 7.
schedules = st.sets(st.integers(2, 7), min_size=1, max_size=4).map(lambda grid_sizes: (1, *sorted(grid_sizes)))
