//! `docs/http-api.md` lists the routes of the running worker, each with its methods and callers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use reqwest::{Client, Method};

use crate::support::Scene;

/// The folder with the router.
const ROUTER: &str = "src/http_api";

/// Each path, with its methods and the callers of each.
type Routes = BTreeMap<String, BTreeMap<String, String>>;

/// A path without the names of its parameters.
fn shape(path: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// The rows of the tables that begin with a method and a path.
fn documented() -> Routes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http-api.md");
    let text = fs::read_to_string(path).unwrap();
    let mut routes = Routes::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((route, cells)) = row.split_once("` | ") else {
            continue;
        };
        let (Some((method, path)), Some((callers, _))) = (route.split_once(' '), cells.split_once(" | "))
        else {
            continue;
        };
        let methods = routes.entry(shape(path)).or_default();
        let other = methods.insert(method.to_owned(), callers.to_owned());
        assert!(other.is_none_or(|other| other == callers), "{method} {path}");
    }
    routes
}

/// The paths in the sources of the router; its tests have routers of their own.
fn declared(folder: &Path, paths: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            declared(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            for route in text.split(".route(").skip(1) {
                if let Some(path) = route.trim_start().strip_prefix('"') {
                    paths.insert(shape(path.split('"').next().unwrap()));
                }
            }
        }
    }
}

#[tokio::test]
async fn docs_list_the_routes_with_their_methods() {
    let documented = documented();
    let mut paths = BTreeSet::new();
    declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join(ROUTER), &mut paths);
    assert!(
        paths.len() > 15,
        "the routes are not found in the sources: {paths:?}"
    );
    let known: BTreeSet<String> = documented.keys().cloned().collect();
    assert_eq!(known, paths, "docs/http-api.md (left) and the router (right)");

    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    for (path, methods) in documented {
        // No route takes PATCH: the refusal names the methods that it takes.
        let url = format!("http://127.0.0.1:{}{}", worker.port, path.replace("{}", "x"));
        let answer = Client::new().request(Method::PATCH, url).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        let allowed: BTreeSet<String> = allowed
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        let allowed: BTreeSet<String> = allowed.into_iter().filter(|method| method != "HEAD").collect();
        let methods: BTreeSet<String> = methods.into_keys().collect();
        assert_eq!(
            methods, allowed,
            "{path}: docs/http-api.md (left) and the router (right)"
        );
    }
}

#[tokio::test]
async fn each_route_lets_only_the_documented_callers_pass() {
    let tokens = [
        ("READ_TOKEN", "read-t0ken-of-tests"),
        ("ENQUEUE_TOKEN", "enqueue-t0ken-of-tests"),
        ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
    ];
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&tokens).await;
    let senders = tokens
        .map(|(name, token)| (name, Some(token)))
        .into_iter()
        .chain([("no token", None)]);
    let mut denials = 0;
    for (path, methods) in documented() {
        for (method, callers) in methods {
            let admitted: &[&str] = match callers.as_str() {
                "everyone" => &["READ_TOKEN", "ENQUEUE_TOKEN", "ADMIN_TOKEN", "no token"],
                "readers" => &["READ_TOKEN", "ADMIN_TOKEN"],
                "producers" => &["ENQUEUE_TOKEN", "ADMIN_TOKEN"],
                "admins" => &["ADMIN_TOKEN"],
                other => panic!("{method} {path}: unknown callers {other:?}"),
            };
            for (name, token) in senders.clone() {
                let url = format!("http://127.0.0.1:{}{}", worker.port, path.replace("{}", "x"));
                let mut request = Client::new().request(method.parse().unwrap(), url);
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                let status = request.send().await.unwrap().status().as_u16();
                let is_denied = [401, 403].contains(&status);
                assert_eq!(
                    !is_denied,
                    admitted.contains(&name),
                    "{method} {path} with {name}: {status}"
                );
                denials += usize::from(is_denied);
            }
        }
    }
    assert!(denials > 30, "the tables are not read: {denials} denials");
}
