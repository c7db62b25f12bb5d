//! The process and its surroundings: folders, drain time, tokens, providers.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use jobs::{
    AccountFault, Failure, FailureClass, JobType, OpenAiSettings, Provider,
    providers::{
        Dialect, DialectStore, Reachability, deployment, models::days_until, reach, reach_deployment,
    },
};

use super::Finding;
use crate::{
    config::Config,
    connection::Connection,
    dialects::SharedDialects,
    keys::GateKeys,
    media_helper::{HelperLimits, HelperPool, SandboxReport},
    model_shutdown,
    spending::webhook::Forwarder,
    worker::outcome_spool::OutcomeSpool,
};

/// Longest wait for Redis, of which the other findings say what is wrong with it.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) fn look(config: &Config) -> Vec<Finding> {
    vec![
        values(config),
        uploads(config),
        spool(config),
        drain(config),
        tokens(config),
        reads(config),
        provider_urls(config),
        media_hosts(config),
    ]
}

/// Values that were changed before they were used.
fn values(config: &Config) -> Finding {
    const CHECK: &str = "values";
    match config.warnings() {
        [] => Finding::ok(CHECK, "all variables are used as they are set"),
        warnings => Finding::warning(
            CHECK,
            warnings.join("; "),
            "set them to the form in which they are read, so that other programs read them alike",
        ),
    }
}

fn uploads(config: &Config) -> Finding {
    const CHECK: &str = "uploads folder";
    let Some(folder) = &config.handlers.media.uploads_dir else {
        return Finding::ok(
            CHECK,
            "UPLOADS_DIR is not set: file paths in payloads are refused",
        );
    };
    let shown = folder.display();
    match std::fs::read_dir(folder) {
        Ok(_) => Finding::ok(CHECK, format!("{shown} can be read")),
        Err(error) => Finding::failure(
            CHECK,
            format!("{shown}: {error}"),
            "UPLOADS_DIR must be a folder that this user can read; mount the volume that the web API writes to",
        ),
    }
}

fn spool(config: &Config) -> Finding {
    const CHECK: &str = "spool folder";
    let Some(folder) = &config.spool else {
        let found = "SPOOL_DIR is not set: a job whose outcome Redis does not take at a stop runs again";
        return Finding::ok(CHECK, found);
    };
    let shown = folder.display();
    let opened = OutcomeSpool::open(folder).and_then(|spool| spool.waiting());
    match opened.map(|waiting| waiting.len()) {
        Ok(0) => Finding::ok(CHECK, format!("{shown} takes files")),
        Ok(count) => Finding::warning(
            CHECK,
            format!("{count} outcomes wait in {shown}"),
            "start a worker with this folder, which writes them to their queues",
        ),
        Err(error) => Finding::failure(
            CHECK,
            error.to_string(),
            "SPOOL_DIR must be a folder that this user can write to, on a disk that outlives the container",
        ),
    }
}

fn drain(config: &Config) -> Finding {
    const CHECK: &str = "drain time";
    match config.drain_fault() {
        Some(fault) => Finding::warning(
            CHECK,
            fault,
            format!(
                "set RAILWAY_DEPLOYMENT_DRAINING_SECONDS to {} or more",
                config.drain.as_secs() + 5
            ),
        ),
        None => Finding::ok(
            CHECK,
            format!("jobs in flight have {} s at a stop", config.drain.as_secs()),
        ),
    }
}

fn tokens(config: &Config) -> Finding {
    const CHECK: &str = "tokens";
    match &config.access.admin {
        Some(_) => Finding::ok(CHECK, "changing routes want ADMIN_TOKEN"),
        None if config.access.admin_from_loopback => Finding::warning(
            CHECK,
            "no ADMIN_TOKEN: changing routes answer to loopback, and so to callers of a proxy or sidecar on this host",
            "set ADMIN_TOKEN, and ADMIN_FROM_LOOPBACK to off",
        ),
        None => Finding::warning(
            CHECK,
            "no ADMIN_TOKEN: changing routes are off, to loopback too",
            "set ADMIN_TOKEN to reset breakers over HTTP, and ENQUEUE_TOKEN for callers that add jobs",
        ),
    }
}

fn reads(config: &Config) -> Finding {
    const CHECK: &str = "read token";
    match &config.access.read {
        Some(_) => Finding::ok(CHECK, "reading routes want READ_TOKEN"),
        None => Finding::warning(
            CHECK,
            "no READ_TOKEN: reading routes answer to callers that name the port by an address, or localhost",
            "set READ_TOKEN where others than you reach the port",
        ),
    }
}

/// Keys travel in each request to a provider.
fn provider_urls(config: &Config) -> Finding {
    const CHECK: &str = "provider URLs";
    let in_clear = config.urls_in_the_clear();
    match in_clear.is_empty() {
        true => Finding::ok(CHECK, "keys travel encrypted, or stay on this host"),
        false => Finding::warning(
            CHECK,
            format!(
                "keys travel in the clear: {} begins with http://",
                in_clear.join(", ")
            ),
            "use https://",
        ),
    }
}

fn media_hosts(config: &Config) -> Finding {
    const CHECK: &str = "media hosts";
    match config.handlers.media.allowed_hosts.as_slice() {
        [] => Finding::ok(CHECK, "media come over https from public addresses only"),
        hosts => Finding::warning(
            CHECK,
            format!("media may come from private addresses: {}", hosts.join(", ")),
            "empty MEDIA_ALLOWED_HOSTS outside of development",
        ),
    }
}

/// Reports the parts of a request that a deployment refuses. Those that accept all parts are left out.
pub(super) async fn dialects(config: &Config) -> Vec<Finding> {
    let Ok(connection) = Connection::open(&config.redis) else {
        return Vec::new();
    };
    let store = SharedDialects::new(connection);
    let mut findings = Vec::new();
    for (place, settings) in config.handlers.deployments().enumerate() {
        let known = store.load(&deployment(&settings.base_url, &settings.model)).await;
        let dialect = known.and_then(|known| Dialect::parse(&known));
        if let Some(dialect) = dialect.filter(|dialect| !dialect.is_whole()) {
            let (service, _) = model_shutdown::service_of(place, settings);
            let found = format!(
                "the provider does not take the whole request: for 24 hours it is written with {dialect}"
            );
            findings.push(Finding::ok(format!("{} request", service.name()), found));
        }
    }
    findings
}

/// Accounts that jobs wait for now, as the fleet has found them: a call that would show it costs money.
pub(super) async fn accounts(config: &Config) -> Vec<Finding> {
    let (Some(gates), Ok(connection)) = (&config.gates, Connection::open(&config.redis)) else {
        return Vec::new();
    };
    let mut findings: Vec<Finding> = Vec::new();
    let of_providers = Provider::ALL.map(|provider| (provider, gates.of(provider)));
    let further = gates.fallbacks.iter().map(|gate| (Provider::OpenAi, gate));
    for (provider, gate) in of_providers.into_iter().chain(further) {
        let breaker = gate.breaker.name();
        let keys = GateKeys::within(connection.namespace(), breaker, provider.as_str());
        let mut call = redis::pipe();
        call.get(&keys.state).hget(&keys.meta, "fault");
        let answer = tokio::time::timeout(
            ANSWER,
            connection.query::<(Option<String>, Option<String>)>(&call),
        );
        let Ok(Ok((state, fault))) = answer.await else {
            break;
        };
        let is_closed = state.is_none_or(|state| state == "CLOSED");
        let fault = fault
            .as_deref()
            .and_then(|fault| AccountFault::from_word(fault.split_once(':')?.1));
        if let Some(fault) = fault.filter(|_| !is_closed)
            && findings
                .iter()
                .all(|known| !known.found.starts_with(&format!("{breaker}:")))
        {
            let found = format!("{breaker}: jobs wait, since {}", fault.in_words());
            let cure = format!("see to it; `breaker reset {breaker}` saves the rest of the wait then");
            findings.push(Finding::failure("account", found, cure));
        }
    }
    findings
}

/// The receiver of usage events: whether it is reached. Its answer to OPTIONS changes nothing.
pub(super) async fn webhook(config: &Config) -> Option<Finding> {
    const CHECK: &str = "usage webhook";
    let settings = config.webhook.clone()?;
    let (host, is_signed) = (settings.host().to_owned(), settings.secret.is_some());
    let connection = Connection::open(&config.redis).ok()?;
    let reached = match Forwarder::new(connection, &config.replica, settings) {
        Ok(forwarder) => forwarder.probe().await,
        Err(error) => Err(error.to_string()),
    };
    Some(match reached {
        Ok(status) if matches!(status.as_u16(), 401 | 403) => Finding::warning(
            CHECK,
            format!("{host} is reached, and answers {status}"),
            "check the keys in USAGE_WEBHOOK_HEADERS; a receiver may answer so to OPTIONS alone",
        ),
        Ok(status) if status.is_redirection() => Finding::failure(
            CHECK,
            format!("{host} redirects ({status}), which is not followed"),
            "set USAGE_WEBHOOK_URL to the address that it leads to",
        ),
        Ok(_) if is_signed => Finding::ok(CHECK, format!("{host} is reached; events are signed")),
        Ok(_) => Finding::ok(
            CHECK,
            format!("{host} is reached; events are not signed (USAGE_WEBHOOK_SECRET)"),
        ),
        Err(why) => Finding::failure(
            CHECK,
            format!("{host}: {why}"),
            "check USAGE_WEBHOOK_URL, name resolution, certificates, and that the network lets connections out",
        ),
    })
}

/// The process in which recordings are decoded: whether it starts, and what confines it.
pub(super) async fn media_helper(config: &Config) -> Finding {
    const CHECK: &str = "media helper";
    let limits = HelperLimits::for_recordings_of(config.handlers.media.max_bytes);
    let pool = HelperPool::new(config.media_helper.clone(), limits);
    match pool.probe().await {
        Ok(SandboxReport {
            landlock: true,
            seccomp: true,
        }) => Finding::ok(
            CHECK,
            format!(
                "recordings are decoded behind Landlock and seccomp, in {} MB and {} s of CPU time",
                limits.memory / 1_000_000,
                limits.cpu_seconds
            ),
        ),
        Ok(confinement) => Finding::warning(
            CHECK,
            format!(
                "recordings are decoded behind {confinement}: the kernel or the container offers no more"
            ),
            "use a kernel of 5.13 or later with Landlock, and a container profile that allows Landlock and seccomp",
        ),
        Err(error) => Finding::failure(
            CHECK,
            error.to_string(),
            "let this user start processes, and leave them address space (ulimit -u, ulimit -v)",
        ),
    }
}

/// Each provider, and each further deployment: whether it has a key, can be reached, and takes the key.
pub(super) async fn providers(config: &Config) -> Vec<Finding> {
    let of_providers = Provider::ALL.map(|provider| async move {
        let vars = ServiceVars::of(config, provider);
        let reached = reach(&config.handlers, provider).await;
        finding(provider, vars, reached)
    });
    let further = config.handlers.deployments().enumerate().skip(1);
    let further = further.map(|(place, settings)| async move {
        let vars = ServiceVars::of_deployment(place, settings);
        finding(Provider::OpenAi, vars, Some(reach_deployment(settings).await))
    });
    let (mut findings, further) = tokio::join!(join_all(of_providers), join_all(further));
    findings.extend(further);
    findings
}

/// The name of a service, and its variables, which cures name.
struct ServiceVars {
    name: String,
    key: String,
    place: String,
    model: String,
    /// The model or service to name instead of one that ends.
    successor: Option<String>,
}

impl ServiceVars {
    fn of(config: &Config, provider: Provider) -> Self {
        if let (Provider::OpenAi, Some(first)) = (provider, &config.handlers.openai) {
            return Self::of_deployment(0, first);
        }
        let (key, place, model) = match provider {
            Provider::OpenAi => ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"),
            Provider::AzureSpeech => ("AZURE_SPEECH_KEY", "AZURE_SPEECH_REGION or _ENDPOINT", ""),
            Provider::AzureVision => ("AZURE_VISION_KEY", "AZURE_VISION_ENDPOINT", "AZURE_VISION_API"),
        };
        let vision = config.handlers.vision.as_ref();
        let retirement = vision.and_then(model_shutdown::vision_retirement);
        Self {
            name: provider.as_str().to_owned(),
            key: key.to_owned(),
            place: place.to_owned(),
            model: model.to_owned(),
            successor: retirement.and_then(|known| known.successor),
        }
    }

    fn of_deployment(place: usize, settings: &OpenAiSettings) -> Self {
        let (service, model) = model_shutdown::service_of(place, settings);
        let prefix = model.trim_end_matches("MODEL");
        Self {
            name: service.name().to_owned(),
            key: format!("{prefix}API_KEY"),
            place: format!("{prefix}BASE_URL"),
            successor: model_shutdown::successor(settings),
            model,
        }
    }
}

/// The provider shuts down what the worker uses on `day`: a warning, from some weeks before it on.
fn shutdown(provider: Provider, vars: ServiceVars, day: &str) -> Finding {
    let (what, another) = match provider {
        Provider::OpenAi => ("the model", "another model"),
        _ => ("the service that reads images", "another service"),
    };
    let found = format!("reached, and it takes the key; it shuts {what} down on {day}");
    let left = days_until(day, SystemTime::now());
    if left.is_some_and(|left| left > model_shutdown::WARNED_DAYS) {
        return Finding::ok(vars.name, found);
    }
    let successor = vars.successor.as_deref().unwrap_or(another);
    let cure = format!("set {} to {successor} before that day", vars.model);
    Finding::warning(vars.name, found, cure)
}

fn finding(provider: Provider, vars: ServiceVars, reached: Option<Result<Reachability, Failure>>) -> Finding {
    let ServiceVars {
        name,
        key,
        place,
        model,
        ..
    } = &vars;
    let check = name.clone();
    let Some(reached) = reached else {
        let jobs: Vec<&str> = JobType::ALL
            .into_iter()
            .filter(|kind| kind.provider() == provider)
            .map(JobType::as_str)
            .collect();
        let found = format!("{key} is not set: {} jobs fail", jobs.join(" and "));
        return Finding::warning(check, found, format!("set {key}"));
    };
    let failure = match reached {
        Ok(Reachability::Well) => return Finding::ok(check, "reached, and it takes the key"),
        Ok(Reachability::NoModelList(failure)) => {
            let found = format!(
                "reached, and it lists no models, so whether it takes the key is not known: {failure}"
            );
            let cure = "none is needed where jobs run; else run one job, and see its reason";
            return Finding::warning(check, found, cure);
        }
        Ok(Reachability::ModelEnds(day)) => return shutdown(provider, vars, &day),
        Err(failure) => failure,
    };
    let cure = match (failure.account_fault(), failure.class(), failure.status()) {
        (Some(AccountFault::Key), ..) => {
            format!("check {key}: it is wrong, expired, or of another resource")
        }
        (Some(AccountFault::Scope), ..) => format!("give {key} the scope, or use another key"),
        (Some(AccountFault::Model), ..) => format!("set {model} to a model that the account may use"),
        (Some(AccountFault::Access), ..) => {
            format!("check {key} and what its resource allows: region, firewall, data policy")
        }
        (Some(_), FailureClass::Deployment, _) => format!("check {place}: nothing is served there"),
        (_, FailureClass::Deployment, _) => {
            "install the system's certificates (Debian: ca-certificates), or name their file in SSL_CERT_FILE"
                .to_owned()
        }
        (_, FailureClass::OutOfQuota, _) => "add credit, or wait for the quota to be replenished".to_owned(),
        (_, _, Some(_)) => {
            "the provider stumbles: see its status page; its breaker will open, and jobs wait".to_owned()
        }
        (_, _, None) => format!("check {place}, name resolution, and that the network lets connections out"),
    };
    Finding::failure(check, failure.to_string(), cure)
}
