//! The streams of endpoints that are compatible with OpenAI, as their documents, their sources and reports about them show
//! them. What an endpoint refuses is in its own words.

mod streams;

use streams::{
    azure, crlf, deepseek, gemini, groq, json_lines, llama_cpp, lm_studio, mistral, ollama, openai,
    openrouter, perplexity, text_generation_inference, together, tool, vllm, vllm_old, whole,
};

/// An endpoint.
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    /// Path of the base URL.
    pub(super) base: &'static str,
    /// Target of its requests.
    pub(super) target: &'static str,
    /// Further variables of the worker.
    pub(super) env: &'static [(&'static str, &'static str)],
    /// Parameters that it refuses, each with the status and the body of the refusal.
    pub(super) refuses: &'static [(&'static str, u16, &'static str)],
    /// Writes its stream of these parts of a text.
    pub(super) stream: fn(&[&str]) -> String,
    /// Tokens of the request and of the answer, if it counts them.
    pub(super) counts: Option<(u64, u64)>,
    /// Its stream ends with the connection.
    pub(super) closes: bool,
}

const OPENAI: Endpoint = Endpoint {
    name: "",
    base: "/v1",
    target: "/v1/chat/completions",
    env: &[],
    refuses: &[],
    stream: openai,
    counts: Some((700, 900)),
    closes: false,
};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        name: "openai",
        ..OPENAI
    },
    Endpoint {
        name: "azure-v1",
        base: "/openai/v1",
        target: "/openai/v1/chat/completions",
        stream: azure,
        ..OPENAI
    },
    Endpoint {
        name: "azure-classic",
        base: "",
        target: "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21",
        env: &[("OPENAI_API", "azure")],
        stream: azure,
        ..OPENAI
    },
    Endpoint {
        name: "openrouter",
        base: "/api/v1",
        target: "/api/v1/chat/completions",
        stream: openrouter,
        ..OPENAI
    },
    Endpoint {
        name: "vllm",
        stream: vllm,
        ..OPENAI
    },
    Endpoint {
        name: "vllm-old",
        refuses: &[
            (
                "stream_options",
                400,
                r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted', 'input': {'include_usage': True}}]","type":"BadRequestError","param":null,"code":400}"#,
            ),
            (
                "max_completion_tokens",
                400,
                r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted', 'input': 4370}]","type":"BadRequestError","param":null,"code":400}"#,
            ),
        ],
        stream: vllm_old,
        counts: None,
        ..OPENAI
    },
    Endpoint {
        name: "mistral",
        refuses: &[(
            "max_completion_tokens",
            422,
            r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted","input":4370}]},"type":"invalid_request_error","param":null,"code":null}"#,
        )],
        stream: mistral,
        ..OPENAI
    },
    Endpoint {
        name: "groq",
        base: "/openai/v1",
        target: "/openai/v1/chat/completions",
        refuses: &[(
            "json_schema",
            400,
            r#"{"error":{"message":"This model does not support response format `json_schema`. See supported models at https://console.groq.com/docs/structured-outputs#supported-models","type":"invalid_request_error"}}"#,
        )],
        stream: groq,
        ..OPENAI
    },
    Endpoint {
        name: "together",
        stream: together,
        ..OPENAI
    },
    Endpoint {
        name: "deepseek",
        base: "",
        target: "/chat/completions",
        refuses: &[(
            "json_schema",
            400,
            r#"{"error":{"message":"This response_format type is unavailable now","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
        )],
        stream: deepseek,
        ..OPENAI
    },
    Endpoint {
        name: "ollama",
        stream: ollama,
        ..OPENAI
    },
    Endpoint {
        name: "lm-studio",
        stream: lm_studio,
        counts: None,
        closes: true,
        ..OPENAI
    },
    Endpoint {
        name: "llama-cpp",
        stream: llama_cpp,
        ..OPENAI
    },
    Endpoint {
        name: "perplexity",
        base: "",
        target: "/chat/completions",
        stream: perplexity,
        ..OPENAI
    },
    Endpoint {
        name: "gemini",
        base: "/v1beta/openai",
        target: "/v1beta/openai/chat/completions",
        stream: gemini,
        ..OPENAI
    },
    Endpoint {
        name: "text-generation-inference",
        stream: text_generation_inference,
        counts: None,
        closes: true,
        ..OPENAI
    },
    Endpoint {
        name: "a gateway that schedules tools",
        stream: tool,
        ..OPENAI
    },
    Endpoint {
        name: "a gateway with CRLF and names of events",
        stream: crlf,
        ..OPENAI
    },
    Endpoint {
        name: "a gateway with lines of JSON",
        stream: json_lines,
        ..OPENAI
    },
    Endpoint {
        name: "a gateway that answers in one piece",
        stream: whole,
        ..OPENAI
    },
    Endpoint {
        name: "a gateway that takes nothing",
        refuses: &[
            (
                "json_schema",
                400,
                r#"{"detail":"response_format: Input should be 'text' or 'json_object'"}"#,
            ),
            (
                "json_object",
                400,
                r#"{"error":{"message":"json mode is not supported for this model","param":"response_format","code":"unsupported_parameter"}}"#,
            ),
            (
                "max_completion_tokens",
                400,
                r#"{"error":{"message":"Unrecognized request argument supplied: max_completion_tokens","type":"invalid_request_error","param":null,"code":null}}"#,
            ),
            (
                "stream_options",
                422,
                r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
            ),
        ],
        stream: ollama,
        ..OPENAI
    },
];
