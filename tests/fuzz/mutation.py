"""Examples with something wrong in them: what a broken or hostile peer sends."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def mutated(draw: st.DrawFn, examples: tuple[bytes, ...]) -> bytes:
    """Draw an example, then cut, overwrite, repeat or insert a few times."""
    content = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(("cut", "overwrite", "insert", "repeat", "nest"))):
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "overwrite":
                piece = draw(st.binary(min_size=1, max_size=4))
                content[at : at + len(piece)] = piece
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=40))
            case "repeat":
                content[at:at] = content[at : at + 60] * draw(st.integers(1, 50))
            case _:
                content[at:at] = b"\x91" * draw(st.sampled_from((10, 2_000, 100_000)))
    return bytes(content)
