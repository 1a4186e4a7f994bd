"""Texts for property tests, made of what means something to systemd, to shells and to terminals."""

from __future__ import annotations

from hypothesis import strategies as st

_ORDINARY = st.characters(min_codepoint=1, max_codepoint=0xD7FF)

# Any text that an argument can hold: no NUL, no lone surrogates.
HOSTILE = st.text(
    st.one_of(st.sampled_from("\n\r\t\x0b\x7f\"'\\%${}[];#=-@ n\u0085\u2028\U0001f600"), _ORDINARY),
    max_size=30,
)
