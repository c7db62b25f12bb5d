//! OpenAI: answers and checks.

use std::collections::HashSet;

use super::*;

fn cards_schema() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["flashcards"],
        "properties": {"flashcards": {"type": "array", "items": {
            "type": "object", "additionalProperties": false,
            "required": ["front", "back", "topic", "difficulty", "pronunciation"],
            "properties": {
                "front": {"type": "string"}, "back": {"type": "string"}, "topic": {"type": "string"},
                "difficulty": {"type": "string", "enum": ["beginner", "intermediate", "expert"]},
                "pronunciation": {"type": ["string", "null"]},
            },
        }}},
    })
}

fn cards(text: &str, schema: Value) -> Value {
    let mut body = prompt(text);
    body["max_completion_tokens"] = json!(8000);
    body["temperature"] = json!(0.7);
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "cards", "strict": true, "schema": schema}});
    body
}

fn content(answer: &Value) -> Value {
    serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn flashcards_satisfy_the_schema_and_carry_the_prompt() {
    let bench = Bench::new().await;
    let response = bench
        .chat(&cards("Make 12 new flashcards on volcanoes", cards_schema()))
        .send()
        .await
        .unwrap();
    for header in [
        "x-request-id",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-tokens",
    ] {
        assert!(response.headers().contains_key(header), "{header}");
    }
    let answer = json_of(response, 200).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = |name: &str| answer["usage"][name].as_u64().unwrap();
    assert!(usage("prompt_tokens") > 0 && usage("completion_tokens") > 0);
    assert_eq!(
        usage("total_tokens"),
        usage("prompt_tokens") + usage("completion_tokens")
    );

    let content = content(&answer);
    let list = content["flashcards"].as_array().unwrap();
    assert_eq!(list.len(), 12);
    let fronts: HashSet<&str> = list.iter().map(|card| card["front"].as_str().unwrap()).collect();
    assert_eq!(fronts.len(), 12, "no front comes twice");
    assert!(
        list[0]["front"].as_str().unwrap().contains("Make"),
        "words of the prompt: {}",
        list[0]
    );
    for card in list {
        assert_eq!(
            card.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["front", "back", "topic", "difficulty", "pronunciation"]
        );
        assert!(["beginner", "intermediate", "expert"].contains(&card["difficulty"].as_str().unwrap()));
    }
    assert!(list.iter().any(|card| card["pronunciation"].is_null()));
    assert!(list.iter().any(|card| card["pronunciation"].is_string()));
    for card in list {
        let alike = list
            .iter()
            .filter(|other| other["topic"] == card["topic"])
            .count();
        assert!(alike >= 5, "topic {} has {alike} cards", card["topic"]);
    }
}

#[tokio::test]
async fn the_same_prompt_has_the_same_answer_and_another_prompt_another() {
    let bench = Bench::new().await;
    let first = content(&send(bench.chat(&cards("Some text about rivers", cards_schema())), 200).await);
    let again = content(&send(bench.chat(&cards("Some text about rivers", cards_schema())), 200).await);
    let other = content(&send(bench.chat(&cards("Some text about stones", cards_schema())), 200).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_eq!(first["flashcards"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn of_a_prompt_in_json_the_longest_text_is_the_material() {
    let bench = Bench::new().await;
    let text =
        json!({"subject": "geology", "content": "Magma rises below volcanoes", "count": 3}).to_string();
    let answer = content(&send(bench.chat(&cards(&text, cards_schema())), 200).await);
    assert!(
        answer["flashcards"][0]["front"]
            .as_str()
            .unwrap()
            .contains("Magma"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_recursive_schema_ends() {
    let node = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "children"],
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
    });
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["tree"],
        "properties": {"tree": {"$ref": "#/$defs/node"}}, "$defs": {"node": node},
    });
    let bench = Bench::new().await;
    let mut body = cards("A family tree", schema);
    body["max_completion_tokens"] = Value::Null;
    let answer = send(bench.chat(&body), 200).await;
    assert_eq!(
        answer["choices"][0]["finish_reason"], "length",
        "16,384 tokens are the most"
    );
}

#[tokio::test]
async fn an_answer_longer_than_allowed_is_cut() {
    let bench = Bench::new().await;
    let mut body = cards("Some text", cards_schema());
    body["max_completion_tokens"] = json!(50);
    let answer = send(bench.chat(&body), 200).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 50);
    assert_eq!(
        answer["choices"][0]["message"]["content"].as_str().unwrap().len(),
        200
    );
}

#[tokio::test]
async fn a_wrong_key_is_refused_as_openai_does() {
    let bench = Bench::new().await;
    for path in ["chat/completions", "models"] {
        let url = format!("{}/{path}", bench.sim.openai_base_url());
        let request = if path == "models" {
            bench.http.get(url)
        } else {
            bench.http.post(url).json(&prompt("hello"))
        };
        let answer = send(request.try_clone().unwrap().bearer_auth("sk-wrong-key"), 401).await;
        assert_eq!(answer["error"]["code"], "invalid_api_key");
        assert!(!answer.to_string().contains("wrong-key"));
        send(request, 401).await;
    }
    let models = bench.http.get(format!("{}/models", bench.sim.openai_base_url()));
    let models = send(models.bearer_auth("sim-openai-key"), 200).await;
    assert_eq!(models["data"][0]["id"], "gpt-6-luna");
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let bench = Bench::new().await;
    let raw = |kind: &str, body: &'static str| {
        let url = format!("{}/chat/completions", bench.sim.openai_base_url());
        bench
            .http
            .post(url)
            .bearer_auth("sim-openai-key")
            .header("content-type", kind)
            .body(body)
    };
    for body in ["", "{", "[]", "null", "\"x\""] {
        send(raw("application/json", body), 400).await;
    }
    send(raw("text/plain", "{}"), 415).await;
}

#[tokio::test]
async fn wrong_fields_are_refused() {
    let bench = Bench::new().await;
    let long = "word ".repeat(110_000);
    // The change to a good body, the status and the code or parameter named in the error.
    let table = [
        (json!({"model": null}), 400, "model"),
        (json!({"model": "llama-3"}), 404, "model_not_found"),
        (json!({"messages": null}), 400, "messages"),
        (json!({"messages": []}), 400, "empty_array"),
        (json!({"messages": ["x"]}), 400, "messages[0].role"),
        (
            json!({"messages": [{"role": "boss", "content": "x"}]}),
            400,
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            400,
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": long}]}),
            400,
            "context_length_exceeded",
        ),
        (
            json!({"max_completion_tokens": 0}),
            400,
            "integer_below_min_value",
        ),
        (
            json!({"max_completion_tokens": "many"}),
            400,
            "integer_below_min_value",
        ),
        (
            json!({"max_completion_tokens": 20_000}),
            400,
            "max_completion_tokens",
        ),
        (json!({"temperature": 3}), 400, "temperature"),
        (
            json!({"model": "o4-mini", "max_tokens": 5}),
            400,
            "unsupported_parameter",
        ),
        (
            json!({"model": "gpt-5-mini", "temperature": 0.2}),
            400,
            "unsupported_value",
        ),
        (
            json!({"stream_options": {"include_usage": true}}),
            400,
            "stream_options",
        ),
        (json!({"n": 2}), 400, "\"n\""),
        (json!({"colour": "red"}), 400, "colour"),
        (
            json!({"response_format": {"type": "xml"}}),
            400,
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            400,
            "json_schema.name",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
            400,
            "invalid_value",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            400,
            "json_schema.schema",
        ),
    ];
    for (change, status, named) in table {
        let mut body = prompt("hello");
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = send(bench.chat(&body), status).await;
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert!(answer.to_string().contains(named), "{named}: {answer}");
    }
}

#[tokio::test]
async fn strict_mode_refuses_what_openai_refuses() {
    let changes: [(&str, Value, &str); 8] = [
        ("/type", json!("array"), "type: \"object\""),
        ("/additionalProperties", json!(true), "'additionalProperties'"),
        ("/required", json!([]), "Missing 'flashcards'"),
        ("/required", json!(["flashcards", "ghost"]), "'ghost'"),
        (
            "/properties/flashcards/items/additionalProperties",
            Value::Null,
            "'items'",
        ),
        (
            "/properties/flashcards/items/required",
            json!(["front"]),
            "Missing 'back'",
        ),
        (
            "/properties/flashcards/items/properties/front",
            json!({"oneOf": []}),
            "'oneOf' is not permitted",
        ),
        (
            "/properties/flashcards/items/properties/front",
            json!({}),
            "'type' key",
        ),
    ];
    let bench = Bench::new().await;
    for (pointer, value, named) in changes {
        let mut schema = cards_schema();
        *schema.pointer_mut(pointer).unwrap() = value;
        let mut body = cards("hello", schema);
        let answer = send(bench.chat(&body), 400).await;
        assert_eq!(answer["error"]["param"], "response_format");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(named), "{named}: {message}");
        body["response_format"]["json_schema"]["strict"] = json!(false);
        send(bench.chat(&body), 200).await;
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_not_there() {
    let bench = Bench::new().await;
    let lost = bench
        .http
        .post(bench.url("/v1/chat/completion"))
        .json(&prompt("x"));
    assert!(
        send(lost, 404).await["error"]["message"]
            .as_str()
            .unwrap()
            .contains("Invalid URL")
    );
    assert_eq!(
        send(bench.http.get(bench.url("/nothing")), 404).await["error"]["code"],
        "404"
    );
    let get = bench
        .http
        .get(bench.url("/v1/chat/completions"))
        .send()
        .await
        .unwrap();
    assert_eq!(get.status(), 405);
}

/// The data of a stream's events, and whether the stream ended well.
async fn streamed(bench: &Bench, options: Value) -> (Vec<String>, bool) {
    let mut request = prompt("Stream this to me, word by word, please.");
    request["stream"] = json!(true);
    if !options.is_null() {
        request["stream_options"] = options;
    }
    let mut response = bench.chat(&request).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = Vec::new();
    let ended_well = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let body = String::from_utf8(body).unwrap();
    let events = body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    (events.map(str::to_owned).collect(), ended_well)
}

#[tokio::test]
async fn a_stream_holds_the_answer_in_parts() {
    let bench = Bench::new().await;
    let whole: Value = bench
        .chat(&prompt("Stream this to me, word by word, please."))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for time in [Duration::ZERO, Duration::from_millis(40)] {
        bench.sim.set_stream_time(time);
        let (mut events, ended_well) = streamed(&bench, json!({ "include_usage": true })).await;
        assert!(ended_well);
        assert_eq!(events.pop().unwrap(), "[DONE]");
        let chunks: Vec<Value> = events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect();
        let text: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, whole["choices"][0]["message"]["content"]);
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        assert!(chunks[0]["usage"].is_null() && chunks[0].get("usage").is_some());
    }
    let (events, _) = streamed(&bench, Value::Null).await;
    assert!(
        !events.iter().any(|event| event.contains("\"usage\"")),
        "it was not asked for"
    );
    bench
        .sim
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).current == 0)
        .await;
    assert!(
        bench
            .sim
            .journal()
            .of(Provider::OpenAi)
            .iter()
            .all(|entry| entry.status == Some(200))
    );
}

#[tokio::test]
async fn a_stream_breaks_off_or_ends_with_an_error() {
    let bench = Bench::new().await;
    bench.script(Provider::OpenAi, Fault::StreamBreak { percent: 50 });
    let (events, ended_well) = streamed(&bench, Value::Null).await;
    assert!(!ended_well && !events.is_empty());
    bench.script(Provider::OpenAi, Fault::StreamError { percent: 50 });
    let (events, ended_well) = streamed(&bench, Value::Null).await;
    assert!(
        ended_well && events.last().unwrap().contains("server_error"),
        "{events:?}"
    );
    // Charged, although it did not arrive.
    assert!(
        bench
            .sim
            .journal()
            .of(Provider::OpenAi)
            .iter()
            .all(|entry| entry.bill.is_some())
    );
    let too_much = Fault::StreamSilence { percent: 101 };
    assert!(bench.sim.faults().script(Provider::OpenAi, [too_much]).is_err());
}

#[tokio::test]
async fn a_refused_parameter_is_named() {
    let bench = Bench::new().await;
    let refused = Fault::RefuseParameter {
        name: "stream_options".to_owned(),
    };
    bench
        .sim
        .faults()
        .on_match(Provider::OpenAi, "", refused, None)
        .unwrap();
    let mut request = prompt("x");
    request["stream"] = json!(true);
    assert_eq!(bench.chat(&request).send().await.unwrap().status(), 200);
    request["stream_options"] = json!({ "include_usage": true });
    let response = bench.chat(&request).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("stream_options"));
}
