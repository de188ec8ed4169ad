"""When tokens came, from pieces that tell more or less."""

from __future__ import annotations

import random

import pytest

from vivace.bench.load.tokens import Piece, token_times

END = 99.0


def test_running_totals_are_exact() -> None:
    pieces = [Piece(1.0, 0, 0), Piece(2.0, 3, 1), Piece(3.0, 0, 1), Piece(4.0, 20, 4), Piece(5.0, 0, 5)]
    assert token_times(pieces, 5, END) == (2.0, 4.0, 4.0, 4.0, 5.0)


def test_a_total_in_the_last_piece_alone_is_a_final_count() -> None:
    pieces = [Piece(1.0, 4), Piece(2.0, 4), Piece(3.0, 4, 3)]
    assert token_times(pieces, 3, END) == (1.0, 2.0, 3.0)


def test_a_piece_is_a_token_where_nothing_is_told() -> None:
    assert token_times([Piece(1.0, 0), Piece(2.0, 1), Piece(3.0, 9)], None, END) == (2.0, 3.0)


def test_missing_tokens_go_where_the_text_is() -> None:
    pieces = [Piece(1.0, 4), Piece(2.0, 12), Piece(3.0, 4)]
    assert token_times(pieces, 5, END) == (1.0, 2.0, 2.0, 2.0, 3.0)


def test_of_pieces_too_many_the_first_and_the_last_stay() -> None:
    pieces = [Piece(float(number), 1) for number in range(7)]
    assert token_times(pieces, 4, END) == (0.0, 2.0, 4.0, 6.0)
    assert token_times(pieces, 1, END) == (0.0,)
    assert token_times(pieces, 0, END) == ()


def test_tokens_without_text_came_at_the_end() -> None:
    assert token_times([Piece(1.0, 0)], 2, END) == (END, END)


@pytest.mark.parametrize("seed", range(50))
def test_the_servers_count_is_always_kept(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [Piece(float(number), chance.choice((0, 1, 5, 30))) for number in range(chance.randrange(1, 12))]
    num_tokens = chance.randrange(0, 40)
    times = token_times(pieces, num_tokens, END)
    assert len(times) == num_tokens
    assert list(times) == sorted(times)
