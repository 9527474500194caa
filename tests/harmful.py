"""Text that could harm a terminal, and a check that none of it is printed."""

# What moves the cursor, erases, changes the terminal's settings or begins a line (Cc, Zl and Zp of Unicode), and what
# shows text in another order than it is in. Other characters that can't be seen may be shown as they are.
BIDI = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HARMFUL = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *BIDI]))
# Some of each kind: short enough to be shown whole everywhere, and nothing that can't be in a line or a file's name.
HARM = "\x1bc\a\b\x7f\x85\x9b1m\u2028\u2029" + "".join(map(chr, BIDI))
SHOWN = HARM.encode("unicode_escape").decode()


def harmless(said: str) -> str:
    """Return what a script has said, if nothing in it can harm a terminal."""
    assert not set(said) & set(HARMFUL) - {"\n"}, ascii(said)
    return said
