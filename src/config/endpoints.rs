//! Addresses as the portals of the providers show them, and as people spell them, to those that the worker calls.

use url::Url;

/// Where requests go, and what was changed about it.
pub(super) type MappedEndpoint = Result<(Url, Option<String>), String>;

/// Base URL of OpenAI, a proxy, or Azure OpenAI.
///
/// # Errors
/// For the URL of an Azure deployment, in the words of a refusal.
pub(super) fn openai(mut url: Url) -> MappedEndpoint {
    let host = url.host_str().unwrap_or_default().to_owned();
    let path = url.path().trim_end_matches('/').to_owned();
    if let Some((_, deployment)) = path.split_once("/openai/deployments/") {
        let deployment = deployment.split('/').next().unwrap_or_default();
        return Err(format!(
            "an address of Azure's version 1 interface: OPENAI_BASE_URL=https://{host}/openai/v1 and \
             OPENAI_MODEL={deployment:.64}, without api-version; or the classic one, with OPENAI_API=azure"
        ));
    }
    if AZURE_OPENAI.iter().any(|suffix| host.ends_with(suffix)) {
        // Whatever the portal shows of a resource, it has one interface of version 1.
        if path == "/openai/v1" && url.query().is_none() {
            return Ok((url, None));
        }
        url.set_query(None);
        url.set_fragment(None);
        url.set_path("/openai/v1");
        let told = format!("is read as {url}");
        return Ok((url, Some(told)));
    }
    without_query(&url)?;
    let right = match path.as_str() {
        "" if host == "api.openai.com" => "/v1".to_owned(),
        path => ["/chat/completions", "/responses", "/models"]
            .iter()
            .find_map(|suffix| path.strip_suffix(suffix))
            .unwrap_or(path)
            .to_owned(),
    };
    if right == path {
        return Ok((url, None));
    }
    url.set_path(&right);
    let told = format!("is read as {url}");
    Ok((url, Some(told)))
}

/// Endings of the hosts of Azure's resources with models of OpenAI, in all of its clouds.
const AZURE_OPENAI: [&str; 9] = [
    ".openai.azure.com",
    ".openai.azure.us",
    ".openai.azure.cn",
    ".services.ai.azure.com",
    ".services.ai.azure.us",
    ".services.ai.azure.cn",
    ".cognitiveservices.azure.com",
    ".cognitiveservices.azure.us",
    ".cognitiveservices.azure.cn",
];

/// Base URL of Azure's classic interface, from the address of a resource or of one of its deployments.
pub(super) fn azure_classic(mut url: Url) -> MappedEndpoint {
    let path = url.path().trim_end_matches('/').to_owned();
    let base = path.find("/openai").map_or(path.as_str(), |at| &path[..at]);
    if base == path {
        without_query(&url)?;
        return Ok((url, None));
    }
    url.set_query(None);
    url.set_path(base);
    let told = format!("is read as {url}");
    Ok((url, Some(told)))
}

/// Base URL of Azure's speech to text, from any address that the portal shows for a resource.
pub(super) fn speech(mut url: Url) -> MappedEndpoint {
    let host = url.host_str().unwrap_or_default().to_owned();
    let path = url.path().trim_end_matches('/').to_owned();
    let regional = [
        (".api.cognitive.microsoft.com", "stt.speech.microsoft.com"),
        (".tts.speech.microsoft.com", "stt.speech.microsoft.com"),
        (".api.cognitive.microsoft.us", "stt.speech.azure.us"),
        (".tts.speech.azure.us", "stt.speech.azure.us"),
        (".api.cognitive.azure.cn", "stt.speech.azure.cn"),
        (".tts.speech.azure.cn", "stt.speech.azure.cn"),
    ];
    let found = regional
        .iter()
        .find_map(|(suffix, service)| Some((host.strip_suffix(suffix)?, service)));
    if let Some((region, service)) = found {
        let right: Url = format!("https://{region}.{service}")
            .parse()
            .map_err(|e| format!("a URL ({e})"))?;
        let told = format!("is read as {right}: that is where {host} recognizes speech");
        return Ok((right, Some(told)));
    }
    let own_name = [
        ".cognitiveservices.azure.com",
        ".cognitiveservices.azure.us",
        ".cognitiveservices.azure.cn",
    ]
    .iter()
    .any(|suffix| host.ends_with(suffix));
    let base = ["/speech/", "/sts/", "/speechtotext", "/cognitiveservices/"]
        .iter()
        .find_map(|known| path.find(known))
        .map_or(path.as_str(), |at| &path[..at]);
    let right = if own_name && base.is_empty() { "/stt" } else { base };
    if right == path {
        without_query(&url)?;
        return Ok((url, None));
    }
    url.set_query(None);
    url.set_path(right);
    let told = format!("is read as {url}");
    Ok((url, Some(told)))
}

/// Base URL of Azure Vision, from the address of a resource or of one of its operations.
pub(super) fn vision(mut url: Url) -> MappedEndpoint {
    let path = url.path().trim_end_matches('/').to_owned();
    let base = [
        "/computervision",
        "/vision/v",
        "/documentintelligence",
        "/formrecognizer",
        "/sts/",
    ]
    .iter()
    .find_map(|known| path.find(known));
    match base {
        Some(at) => {
            url.set_query(None);
            url.set_path(&path[..at]);
            let told = format!("is read as {url}");
            Ok((url, Some(told)))
        }
        None => {
            without_query(&url)?;
            Ok((url, None))
        }
    }
}

/// The host of speech to text in a region, spelt in any way: `westeurope`, `West Europe`, `(US) East US 2`.
pub(super) fn speech_in(region: &str) -> Result<Url, String> {
    let expected = || "a region such as westeurope, usgovvirginia or chinaeast2".to_owned();
    let name = match region
        .trim()
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
    {
        Some((_, name)) => name,
        None => region,
    };
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, ' ' | '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(expected());
    }
    let cloud = match &*name {
        name if name.starts_with("usgov") || name.starts_with("usdod") => "azure.us",
        name if name.starts_with("china") => "azure.cn",
        _ => "microsoft.com",
    };
    format!("https://{name}.stt.speech.{cloud}")
        .parse()
        .map_err(|_| expected())
}

fn without_query(url: &Url) -> Result<(), String> {
    match url.query().is_some() || url.fragment().is_some() {
        true => Err("a URL without credentials, query or fragment".to_owned()),
        false => Ok(()),
    }
}
