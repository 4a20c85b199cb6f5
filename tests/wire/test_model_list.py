"""What servers say that they serve."""

from __future__ import annotations

import pytest

from aurora_pool.errors import BadReply, ServerError
from aurora_pool.wire.model_list import ServedModel, parse_models

MODELS = b"""{"object":"list","data":[
 {"id":"smollm2-135m","object":"model","created":1763719200,"owned_by":"vllm","root":"/models/smollm2","parent":null,
  "max_model_len":2048,"permission":[{"id":"modelperm-1","allow_sampling":true}]},
 {"id":"small","object":"model","created":1763719200,"owned_by":"vllm","root":"/models/smollm2","parent":null,
  "max_model_len":2048,"permission":[]},
 {"id":"adapter","object":"model","created":1763719200,"owned_by":"vllm","root":"/loras/a","parent":"smollm2-135m"}]}"""


def test_models_aliases_and_adapters() -> None:
    assert parse_models(MODELS) == [
        ServedModel("smollm2-135m", 2048, "/models/smollm2", None, "vllm"),
        ServedModel("small", 2048, "/models/smollm2", None, "vllm"),
        ServedModel("adapter", None, "/loras/a", "smollm2-135m", "vllm"),
    ]


@pytest.mark.parametrize("body", [b'{"object":"list","data":[]}', b"<html>", b"[]", b'{"data":[{}]}'])
def test_what_lists_no_model_is_a_bad_reply(body: bytes) -> None:
    with pytest.raises(BadReply):
        parse_models(body)


def test_an_error_instead_of_models() -> None:
    with pytest.raises(ServerError, match="Unauthorized"):
        parse_models(b'{"error":"Unauthorized"}')
