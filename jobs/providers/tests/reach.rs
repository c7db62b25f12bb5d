//! What `check` can tell of OpenAI, or of a provider in its place, without a call that costs money.

use super::{PATIENT, settings};
use crate::{
    AccountFault::{self, *},
    Failure, FailureClass, Provider,
    providers::{Reachability, reach},
    testing::server::{Play, Server},
};

const LIST: &str = r#"{"object":"list","data":[{"id":"gpt-4o"},{"id":"gpt-4o-mini"}]}"#;

/// What is found where the list of models, and the model itself, are answered so.
async fn found(list: (u16, &'static str), model: (u16, &'static str)) -> Result<Reachability, Failure> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::answering(move |request| {
        let (status, body) = if request.line.ends_with("/models") {
            list
        } else {
            model
        };
        Play::answer(status, "", body)
    })
    .await;
    reach(&settings(&server.url, PATIENT), Provider::OpenAi)
        .await
        .unwrap()
}

#[tokio::test]
async fn each_fault_is_told_apart() {
    let rows: [(u16, &str, AccountFault, &str); 6] = [
        (
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-ab***7f","code":"invalid_api_key"}}"#,
            Key,
            "refused the API key (401)",
        ),
        (
            400,
            r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: ab***yz."}"#,
            Key,
            "refused the API key (400)",
        ),
        (
            403,
            r#"{"error":{"message":"Country, region, or territory not supported","code":"unsupported_country_region_territory"}}"#,
            Access,
            "Country",
        ),
        (
            429,
            r#"{"error":{"message":"Your account is not active, please check your billing details on our website.","code":"billing_not_active"}}"#,
            Credit,
            "billing_not_active",
        ),
        (
            402,
            r#"{"error":{"message":"Insufficient Balance"}}"#,
            Credit,
            "Insufficient Balance",
        ),
        (
            200,
            r#"{"error":{"message":"Insufficient credits","code":402}}"#,
            Credit,
            "Insufficient credits",
        ),
    ];
    for (status, body, fault, words) in rows {
        let failure = found((status, body), (404, "")).await.unwrap_err();
        assert_eq!(failure.account_fault(), Some(fault), "{body}: {failure}");
        assert!(
            failure.to_string().contains(words) && !failure.to_string().contains("**"),
            "{failure}"
        );
    }
    let failure = found((500, ""), (404, "")).await.unwrap_err();
    assert_eq!(
        (failure.class(), failure.account_fault()),
        (FailureClass::Transient, None)
    );
}

#[tokio::test]
async fn a_list_that_is_not_served_says_nothing_of_the_key() {
    let scope = r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.model.read."}}"#;
    for (status, body, words) in [
        (404, r#"{"detail":"Not Found"}"#, "Not Found"),
        (404, "", "404"),
        (405, r#"{"detail":"Method Not Allowed"}"#, "405"),
        (403, scope, "api.model.read"),
        (401, scope, "api.model.read"),
    ] {
        match found((status, body), (404, "")).await {
            Ok(Reachability::NoModelList(failure)) => {
                assert!(failure.to_string().contains(words), "{failure}")
            }
            other => panic!("{status} {body}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_model_that_is_missing_or_ends_is_told() {
    let others = r#"{"data":[{"id":"gpt-4o"}]}"#;
    let unknown =
        r#"{"error":{"message":"The model `gpt-4o-mini` does not exist","code":"model_not_found"}}"#;
    let failure = found((200, others), (404, unknown)).await.unwrap_err();
    assert_eq!(failure.account_fault(), Some(Model));
    assert!(failure.to_string().contains("gpt-4o-mini"), "{failure}");
    // An alias need not be listed, and a list need not be one.
    for list in [others, "{}", "[]", "models"] {
        assert!(
            matches!(found((200, list), (200, "{}")).await, Ok(Reachability::Well)),
            "{list}"
        );
    }
    assert!(matches!(
        found((200, LIST), (404, unknown)).await,
        Ok(Reachability::Well)
    ));
    let ends = r#"{"data":[{"id":"gpt-4o-mini","shutdown_date":"2027-01-14"}]}"#;
    match found((200, ends), (404, "")).await {
        Ok(Reachability::ModelEnds(day)) => assert_eq!(day, "2027-01-14"),
        other => panic!("{other:?}"),
    }
}
