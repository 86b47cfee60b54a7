# SPDX-License-Identifier: LGPL-2.1-or-later
import errno
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gxl.xenstore import (
    PAYLOAD_MAX,
    Client,
    Decoder,
    Message,
    Operation,
    ProtocolError,
    Request,
    WatchEvent,
    encode,
    error_name,
    error_number,
    is_valid_path,
)

numbers = st.integers(0, 2**32 - 1)
messages = st.builds(Message, numbers, numbers, numbers, st.binary(max_size=300))


def test_a_message_on_the_wire_is_four_little_endian_numbers_and_the_payload() -> None:
    assert encode(Message(Operation.READ, 7, 9, b"/a\0")) == struct.pack("<IIII", 2, 7, 9, 3) + b"/a\0"


def test_a_payload_beyond_the_limit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="4097"):
        encode(Message(Operation.WRITE, 1, 0, bytes(PAYLOAD_MAX + 1)))


@given(st.lists(messages, max_size=6), st.lists(st.integers(0, 2000), max_size=10))
def test_messages_survive_any_way_of_cutting_the_stream(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = Decoder()
    received = [message for start, end in pairwise(edges) for message in decoder.feed(stream[start:end])]
    assert received == sent


@given(st.lists(messages, max_size=3), st.integers(PAYLOAD_MAX + 1, 2**32 - 1), st.binary(max_size=50))
def test_an_overlong_length_ends_the_stream_after_the_messages_before_it(
    before: list[Message], length: int, after: bytes
) -> None:
    decoder = Decoder()
    stream = decoder.feed(b"".join(map(encode, before)) + struct.pack("<IIII", 2, 0, 0, length) + after)
    for message in before:
        assert next(stream) == message
    with pytest.raises(ProtocolError, match=str(length)):
        next(stream)
    with pytest.raises(ProtocolError):
        list(decoder.feed(encode(Message(2, 0, 0, b""))))


def test_a_length_at_the_limit_is_accepted() -> None:
    message = Message(Operation.WRITE, 1, 0, bytes(PAYLOAD_MAX))
    assert list(Decoder().feed(encode(message))) == [message]


def test_messages_that_were_not_asked_for_stay_for_the_next_call() -> None:
    decoder = Decoder()
    one, two = Message(1, 1, 0, b"one"), Message(2, 2, 0, b"two")
    assert next(decoder.feed(encode(one) + encode(two))) == one
    assert list(decoder.feed(b"")) == [two]


@given(st.binary(max_size=4000))
def test_no_bytes_make_the_decoder_fail_otherwise_than_with_its_own_error(data: bytes) -> None:
    try:
        for message in Decoder().feed(data):
            assert len(message.payload) <= PAYLOAD_MAX
    except ProtocolError:
        pass


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EAGAIN, errno.E2BIG, errno.EPERM])
def test_an_error_travels_by_name(number: int) -> None:
    assert error_name(number) == errno.errorcode[number].encode()
    assert error_number(error_name(number)) == number


def test_an_error_without_a_name_on_the_wire_travels_as_einval() -> None:
    assert error_name(errno.ECONNRESET) == b"EINVAL"
    assert error_number(b"EWHATEVER") == errno.EINVAL


@pytest.mark.parametrize("path", [b"/", b"/a", b"/local/domain/0", b"/A-z_0@/x", b"/" + b"a" * 2047])
def test_valid_paths(path: bytes) -> None:
    assert is_valid_path(path)


@pytest.mark.parametrize(
    "path", [b"", b"a", b"//", b"/a/", b"/a//b", b"/a b", b"/a\0", b"/a\n", b"/\xc3\xa9", b"/a.b", b"/" + b"a" * 2048]
)
def test_invalid_paths(path: bytes) -> None:
    assert not is_valid_path(path)


def test_a_path_in_a_domain_directory_is_measured_from_there() -> None:
    assert is_valid_path(b"/local/domain/12345/" + b"a" * 2048)
    assert not is_valid_path(b"/local/domain/12345/" + b"a" * 2049)
    assert not is_valid_path(b"/local/domain/x/" + b"a" * 2040)


def test_a_client_matches_replies_to_requests_in_any_order() -> None:
    client = Client()
    first, second = client.read(b"/a"), client.read(b"/b")
    asked = list(Decoder().feed(bytes(client.outgoing)))
    assert [message.payload for message in asked] == [b"/a\0", b"/b\0"]
    replies = encode(asked[1]._replace(payload=b"two")) + encode(Message(16, asked[0].request_id, 0, b"ENOENT\0"))
    assert list(client.receive(replies)) == [second, first]
    assert second.result() == b"two"
    with pytest.raises(FileNotFoundError):
        first.result()


def test_a_client_gives_watch_events_between_replies_in_the_order_of_arrival() -> None:
    client = Client()
    request = client.watch(b"@releaseDomain", b"7")
    (asked,) = Decoder().feed(bytes(client.outgoing))
    assert asked.payload == b"@releaseDomain\x007\0"
    event = encode(Message(Operation.WATCH_EVENT, 0, 0, asked.payload))
    assert list(client.receive(event + encode(asked._replace(payload=b"OK\0")) + event)) == [
        WatchEvent(b"@releaseDomain", b"7"),
        request,
        WatchEvent(b"@releaseDomain", b"7"),
    ]
    assert request.result() == b"OK\0"


def test_a_result_before_the_reply_is_an_error_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="not answered"):
        Client().read(b"/a").result()


@pytest.mark.parametrize(
    "message",
    [
        Message(Operation.READ, 99, 0, b""),
        Message(Operation.WRITE, 1, 0, b""),
        Message(Operation.WATCH_EVENT, 0, 0, b"/a"),
        Message(Operation.WATCH_EVENT, 0, 0, b"/a\0token"),
        Message(Operation.WATCH_EVENT, 0, 0, b"/a\0token\0more\0"),
    ],
)
def test_a_client_refuses_what_no_xenstored_sends(message: Message) -> None:
    client = Client()
    client.read(b"/a")
    with pytest.raises(ProtocolError):
        list(client.receive(encode(message)))


def test_when_the_store_dies_every_open_request_fails() -> None:
    client = Client()
    requests: list[Request] = [client.read(b"/a"), client.unwatch(b"/a", b"t")]
    assert client.lost() == requests
    for request in requests:
        with pytest.raises(ConnectionResetError):
            request.result()
    assert client.lost() == []


def test_what_was_sent_leaves_the_outgoing_bytes() -> None:
    client = Client()
    client.read(b"/a")
    total = len(client.outgoing)
    client.sent(5)
    assert len(client.outgoing) == total - 5


def test_request_ids_wrap_and_skip_those_in_use() -> None:
    client = Client()
    first = client.read(b"/a")
    client._last_id = 2**32 - 1
    assert client.read(b"/b").request_id == 2
    assert first.request_id == 1


@pytest.mark.parametrize("field", [b"/a\0b", b"\0"])
def test_a_zero_byte_in_a_path_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match="zero byte"):
        Client().read(field)
