//! A script as it is sent to Redis: its text with the names of a fleet's keys, and the function made of it.

use super::library;
use crate::keys::KeyNamespace;

/// The beginnings of the names that Lua texts write out. Each stands behind a quote; other names come from the caller.
///
/// A page of the ledger (`ledger:<job>`) has the tag from the name of its job.
const WRITTEN_OUT: &[&str] = &["spend:", "system:", "usage'", "idempotency:"];

/// A script with the names of one fleet.
#[derive(Debug)]
pub(crate) struct ScriptVariant {
    /// For Redis without functions, and for transactions, which run on a socket of their own.
    pub(crate) evaluated: redis::Script,
    pub(super) function: Option<StoredFunction>,
}

/// A script as a function of Redis.
#[derive(Debug)]
pub(super) struct StoredFunction {
    /// The name of the function and of its library: `bw_<script>_<digest of its source>`.
    pub(super) name: String,
    /// The prefix that the names of all its versions share.
    pub(super) stem: String,
    pub(super) code: String,
}

impl ScriptVariant {
    pub(super) fn new(name: Option<&str>, preludes: &str, operation: &str) -> Self {
        let evaluated = redis::Script::new(&format!("{preludes}{operation}"));
        let function = name.and_then(|name| {
            let stem = format!("bw_{name}_");
            let digest = evaluated.get_hash().get(..12).unwrap_or_default();
            let name = format!("{stem}{digest}");
            let code = library::library(&name, preludes, operation)?;
            Some(StoredFunction { name, stem, code })
        });
        Self { evaluated, function }
    }

    /// The variant for a fleet in a cluster. The caller adds the guard as the last key, which the script does not see.
    pub(super) fn tagged(
        namespace: &KeyNamespace,
        name: Option<&str>,
        preludes: &str,
        operation: &str,
    ) -> Self {
        let preludes = format!("KEYS[#KEYS] = nil\n{}", with_names(preludes, namespace));
        Self::new(name, &preludes, &with_names(operation, namespace))
    }
}

/// The text with the fleet's names of the keys that it writes out.
fn with_names(source: &str, namespace: &KeyNamespace) -> String {
    WRITTEN_OUT.iter().fold(source.to_owned(), |text, name| {
        text.replace(&format!("'{name}"), &format!("'{}{name}", namespace.prefix()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_text_get_the_tag() {
        let namespace = KeyNamespace::tagged("app");
        let text = "call('GET', 'spend:day:' .. d, 'usage', 'ledger:' .. job, 'usages')";
        assert_eq!(
            with_names(text, &namespace),
            "call('GET', '{app}spend:day:' .. d, '{app}usage', 'ledger:' .. job, 'usages')"
        );
    }

    #[test]
    fn versions_of_fleets_have_functions_of_their_own() {
        let namespace = KeyNamespace::tagged("app");
        let plain = ScriptVariant::new(Some("x"), "", "return #KEYS\n");
        let tagged = ScriptVariant::tagged(&namespace, Some("x"), "", "return #KEYS\n");
        let name = |variant: &ScriptVariant| variant.function.as_ref().unwrap().name.clone();
        assert_ne!(name(&plain), name(&tagged));
        assert!(
            tagged
                .function
                .as_ref()
                .unwrap()
                .code
                .contains("KEYS[#KEYS] = nil")
        );
    }
}
