"""The pool of large buffers: never two users of one, never more than its bound."""

from __future__ import annotations

import ctypes
import threading

from dataplatform.base.buffers import BUFFER_BYTES, TAKEN_BYTES_MIN, Buffers


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_a_buffer_comes_back_when_its_last_view_is_gone() -> None:
    buffers = Buffers()
    taken = buffers.take(TAKEN_BYTES_MIN)
    first = address(taken)
    part = taken[10:20]
    del taken
    assert address(buffers.take(TAKEN_BYTES_MIN)) != first  # a part of it is still in use
    part[:] = b"0123456789"
    del part
    both = [buffers.take(BUFFER_BYTES), buffers.take(BUFFER_BYTES)]
    assert first in {address(view) for view in both}


def test_buffers_in_use_never_overlap_and_more_than_the_bound_are_not_kept() -> None:
    buffers = Buffers(count_max=3)
    views = [buffers.take(TAKEN_BYTES_MIN) for _ in range(8)]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * len(view)
    for number, view in enumerate(views):
        assert view == bytes([number]) * TAKEN_BYTES_MIN
    kept = {address(view) for view in views[:3]}
    views.clear()
    del view
    again = [buffers.take(TAKEN_BYTES_MIN) for _ in range(3)]
    assert {address(view) for view in again} == kept


def test_every_length_is_given_exactly() -> None:
    buffers = Buffers()
    for length in (0, 1, TAKEN_BYTES_MIN - 1, TAKEN_BYTES_MIN, BUFFER_BYTES, BUFFER_BYTES + 1):
        view = buffers.take(length)
        assert len(view) == length
        assert not view.readonly


def test_threads_never_share_a_buffer() -> None:
    buffers = Buffers(count_max=4)
    shared: list[int] = []

    def work(number: int) -> None:
        mark = bytes([number]) * TAKEN_BYTES_MIN
        for _ in range(300):
            view = buffers.take(TAKEN_BYTES_MIN)
            view[:] = mark
            if view != mark:
                shared.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared
