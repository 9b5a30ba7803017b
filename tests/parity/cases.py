"""The requests that must look the same directly and through the proxy, a list per kind.

Sampling is fixed by temperature 0 or a seed, so that an engine answers a case the same way twice. vLLM 0.32's
statuses are noted where they are not 200.
"""

from __future__ import annotations

from typing import Any, Final

from tests.parity.bodies import MESSAGES, PROMPT, SAMPLED, chat_body, completion_body
from tests.parity.exchange import Case
from tests.parity.odd_cases import odd_cases

TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "measure",
            "description": "Measure a part",
            "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
        },
    }
]

USAGE_WISHES: Final[dict[str, dict[str, Any]]] = {
    "usage not mentioned": {},
    "usage wanted": {"stream_options": {"include_usage": True}},
    "usage refused": {"stream_options": {"include_usage": False}},
    "usage null": {"stream_options": {"include_usage": None}},
    "stream_options null": {"stream_options": None},
    "stream_options empty": {"stream_options": {}},
    "stream_options of others": {"stream_options": {"include_obfuscation": False}},
    "usage with every chunk": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "usage with every chunk, but refused": {
        "stream_options": {"include_usage": False, "continuous_usage_stats": True}
    },
    "usage with every chunk, but not mentioned": {"stream_options": {"continuous_usage_stats": True}},
    "usage wanted by a string": {"stream_options": {"include_usage": "yes"}},
    "usage wanted by a number": {"stream_options": {"include_usage": 1}},
}


def all_cases(model: str) -> list[Case]:
    """Every case, for the model served as `model`. Names are unique."""
    cases = [
        *_chat(model),
        *_completions(model),
        *_streams(model),
        *_responses(model),
        *_other_routes(model),
        *odd_cases(model),
    ]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError(f"two cases share a name: {sorted(n for n in names if names.count(n) > 1)}")
    return cases


def _chat(model: str) -> list[Case]:
    def chat(name: str, **more: Any) -> list[Case]:
        """The case without and with streaming; the stream asks for usage in a third."""
        wanted = {"stream_options": {"include_usage": True}}
        return [
            Case(name=f"chat: {name}", body=chat_body(model, **more)),
            Case(name=f"chat: {name}, streamed", body=chat_body(model, stream=True, **more)),
            Case(
                name=f"chat: {name}, streamed with usage",
                body=chat_body(model, stream=True, **wanted, **more),
            ),
        ]

    measure = {"type": "function", "function": {"name": "measure"}}
    schema = {"name": "flag", "schema": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
    talk = [
        {"role": "system", "content": "the model"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "what is "}, {"type": "text", "text": "power"}],
        },
        {"role": "assistant", "content": "energy"},
        {"role": "user", "content": "and then"},
    ]
    tool_talk = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "measure", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42 joule"},
    ]
    return [
        *chat("plain"),
        *chat("one token", max_tokens=1),
        *chat("max_completion_tokens", max_tokens=None, max_completion_tokens=5),
        *chat("several turns", messages=talk),
        *chat("three choices", n=3, **SAMPLED),
        *chat("sampled with a seed", **SAMPLED),
        *chat("logprobs", logprobs=True, top_logprobs=2),
        *chat("token ids", return_token_ids=True),
        *chat("echo", echo=True),
        *chat("stop string", stop=["e", " the"], ignore_eos=False),
        *chat("unicode", messages=[{"role": "user", "content": "größe ∑ 🎉 عدد\u2028\u0000\x1f é"}]),
        *chat("tools, free choice", tools=TOOLS),
        *chat("tools, none allowed", tools=TOOLS, tool_choice="none"),
        *chat("tools, one required", tools=TOOLS, tool_choice="required", ignore_eos=False, max_tokens=40),
        *chat("tools, one named", tools=TOOLS, tool_choice=measure, ignore_eos=False, max_tokens=40),
        *chat("tool result", messages=tool_talk, tools=TOOLS),
        *chat(
            "JSON schema", response_format={"type": "json_schema", "json_schema": schema}, ignore_eos=False
        ),
        *chat(
            "unknown fields",
            unknown_field={"a": [1, 2.5, None]},
            user="u-1",
            metadata={"k": "v"},
            store=False,
        ),
        Case(
            name="chat: stop token ends it early",
            body=chat_body(model, ignore_eos=False, min_tokens=2, max_tokens=8, stop_token_ids=[30]),
        ),
    ]


def _completions(model: str) -> list[Case]:
    def completion(name: str, **more: Any) -> list[Case]:
        wanted = {"stream_options": {"include_usage": True}}

        def case(suffix: str, **extra: Any) -> Case:
            return Case(
                name=f"completion: {name}{suffix}",
                path="/v1/completions",
                body=completion_body(model, **extra, **more),
            )

        return [
            case(""),
            case(", streamed", stream=True),
            case(", streamed with usage", stream=True, **wanted),
        ]

    return [
        *completion("plain"),
        *completion("several prompts", prompt=["the first", "and the second one", "last"]),
        *completion("token ids as prompt", prompt=[20, 30, 40, 50]),
        *completion("several prompts of token ids", prompt=[[20, 30], [40, 50, 60]]),
        *completion("three choices", n=3, **SAMPLED),
        *completion("several prompts, two choices each", prompt=["the first", "last"], n=2, **SAMPLED),
        *completion("echo", echo=True),
        *completion("echo of the prompt alone", echo=True, max_tokens=0),
        *completion("logprobs", logprobs=2),
        *completion("logprobs and echo", logprobs=1, echo=True),
        *completion("stop string", stop="e", ignore_eos=False),
        *completion("token ids wanted", return_token_ids=True),
        *completion("default length", max_tokens=None),
        Case(
            name="completion: a prompt found in the prefix cache",
            path="/v1/completions",
            body=completion_body(model, prompt=list(range(20, 420))),
            repeated=True,
        ),
    ]


def _streams(model: str) -> list[Case]:
    """What a client says about usage decides what it sees, whatever the proxy asks the engine for."""
    cases = []
    for name, wish in USAGE_WISHES.items():
        cases += [
            Case(name=f"chat stream: {name}", body=chat_body(model, stream=True, **wish)),
            Case(
                name=f"completion stream: {name}",
                path="/v1/completions",
                body=completion_body(model, stream=True, **wish),
            ),
        ]
        if wish:
            allowed = not wish["stream_options"]
            cases.append(
                Case(
                    name=f"chat not streamed: {name}",
                    body=chat_body(model, stream=False, **wish),
                    expect_status=200 if allowed else 400,
                )
            )
    switches: list[tuple[object, int]] = [
        ("true", 200),
        (1, 200),
        ("yes", 200),
        (None, 200),
        ("maybe", 400),
        ([], 400),
    ]
    wrong_options: list[object] = ["x", [], 3, {"include_usage": "maybe"}, {"include_usage": []}]
    three: dict[str, Any] = {**SAMPLED, "n": 3, "stream": True}
    every = USAGE_WISHES["usage with every chunk"]
    return [
        *cases,
        Case(
            name="chat stream: three choices, usage with every chunk",
            body=chat_body(model, **{**three, **every}),
        ),
        Case(
            name="completion stream: several prompts, usage with every chunk",
            path="/v1/completions",
            body=completion_body(model, stream=True, prompt=["the first", "last"], **every),
        ),
        *(
            Case(
                name=f"chat stream: stream is {value!r}",
                body=chat_body(model, stream=value),
                expect_status=status,
            )
            for value, status in switches
        ),
        *(
            Case(
                name=f"chat stream: stream_options is {value!r}",
                body=chat_body(model, stream=True, stream_options=value),
                expect_status=400,
            )
            for value in wrong_options
        ),
        Case(
            name="chat stream: fails after the headers are out",
            body=chat_body(model, stream=True, logit_bias={"999999": 1}),
            only_real=True,
        ),
        Case(
            name="completion stream: fails after the headers are out",
            path="/v1/completions",
            body=completion_body(
                model, stream=True, logit_bias={"999999": 1}, **USAGE_WISHES["usage wanted"]
            ),
            only_real=True,
        ),
    ]


def _responses(model: str) -> list[Case]:
    body = {"model": model, "input": PROMPT, "temperature": 0, "max_output_tokens": 12}

    def case(name: str, expect_status: int = 200, **more: object) -> Case:
        return Case(
            name=f"responses: {name}",
            path="/v1/responses",
            body={**body, **more},
            expect_status=expect_status,
        )

    return [
        case("plain"),
        case("streamed", stream=True),
        case("streamed, stream_options", stream=True, stream_options={"include_usage": True}),
        case("messages as input", input=MESSAGES),
        case("instructions", instructions="the model", stream=True),
        case("no input", 400, input=None),
        case("in the background", 400, background=True),
        Case(name="responses: unknown id", method="GET", path="/v1/responses/resp_none", expect_status=404),
        Case(name="responses: cancel unknown", path="/v1/responses/resp_none/cancel", expect_status=404),
    ]


def _other_routes(model: str) -> list[Case]:
    return [
        Case(name="models", method="GET", path="/v1/models"),
        Case(name="models, query", method="GET", path="/v1/models?limit=1&x=%20"),
        Case(name="models, HEAD", method="HEAD", path="/v1/models", expect_status=405),
        Case(name="models, one", method="GET", path=f"/v1/models/{model}", expect_status=404),
        Case(name="models, one unknown", method="GET", path="/v1/models/none", expect_status=404),
        Case(name="models, DELETE", method="DELETE", path="/v1/models", expect_status=405),
        Case(name="models, slash at the end", method="GET", path="/v1/models/", expect_status=307),
        Case(name="version", method="GET", path="/version"),
        Case(name="tokenize", path="/tokenize", body={"model": model, "prompt": PROMPT}),
        Case(name="tokenize chat", path="/tokenize", body={"model": model, "messages": MESSAGES}),
        Case(name="detokenize", path="/detokenize", body={"model": model, "tokens": [20, 30, 40]}),
        Case(name="chat, GET", method="GET", expect_status=405),
        Case(name="chat, HEAD", method="HEAD", expect_status=405),
        Case(name="chat, OPTIONS", method="OPTIONS", expect_status=405),
        Case(name="chat, PUT", method="PUT", body={}, expect_status=405),
        Case(name="unknown path, GET", method="GET", path="/v1/none/such?a=1", expect_status=404),
        Case(name="unknown path, POST", path="/v1/none", body={"model": model}, expect_status=404),
        Case(name="unknown path, encoded", method="GET", path="/v1/a%2Fb%20c", expect_status=404),
        Case(
            name="embeddings where none are served",
            path="/v1/embeddings",
            body={"model": model, "input": PROMPT},
            expect_status=None,
        ),
        Case(
            name="Anthropic messages",
            path="/v1/messages",
            body={"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0},
            only_real=True,
        ),
        Case(
            name="Anthropic messages, streamed",
            path="/v1/messages",
            body={"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0, "stream": True},
            only_real=True,
        ),
    ]
