//! Makes a library of Redis Functions out of a script's source.
//!
//! The source is the one that `EVALSHA` gets. A line that begins in the first column begins a statement, unless it closes
//! one. Functions (`local function …`) and constants are made once, when the library is loaded or first called. All other
//! top-level statements run at each call, in their order, so that no state of one call is left for the next. Variables that
//! functions use are declared once, in front of them, and set at each call.
//!
//! Lua allows a function 60 variables of its surroundings (upvalues) and 200 of its own. So the statements are divided
//! among several functions.

mod lua_text;

use self::lua_text::{Token, changed_names, identifiers, statements, tokens};
use std::collections::HashSet;
use std::fmt::Write as _;

/// Upvalues that one of the generated functions uses at most.
const MOST_UPVALUES: usize = 50;

/// A source declares a name twice. In a library both would be the same variable.
struct DuplicateName;

/// The library's code; `None` for a source that declares a name twice.
pub(super) fn library(name: &str, preludes: &str, operation: &str) -> Option<String> {
    let changed = [preludes, operation]
        .into_iter()
        .flat_map(changed_names)
        .collect();
    let operation = statements(operation);
    let in_functions: HashSet<&str> = operation
        .iter()
        .filter(|statement| statement.starts_with(FUNCTION))
        .flat_map(|statement| identifiers(statement))
        .collect();
    let mut parts = LibraryParts {
        changed,
        ..LibraryParts::default()
    };
    let mut main = String::new();
    for statement in statements(preludes) {
        if let Some(set) = parts.declare(&statement, None).ok()? {
            parts.each_call.push(set);
        }
    }
    for statement in &operation {
        if let Some(set) = parts.declare(statement, Some(&in_functions)).ok()? {
            main.push_str(&set);
            main.push('\n');
        }
    }
    Some(parts.write(name, &main))
}

const FUNCTION: &str = "local function ";

#[derive(Default)]
struct LibraryParts {
    names: HashSet<String>,
    /// Names that the source sets elsewhere than where it declares them.
    changed: HashSet<String>,
    constants: HashSet<String>,
    /// Declarations, functions, and constants that can be made while the library is loaded.
    definitions: String,
    /// Constants that need Lua's own libraries, which Redis offers only during a call.
    first_call: Vec<String>,
    each_call: Vec<String>,
}

impl LibraryParts {
    /// Declares the names of a statement, and returns the part that runs at each call, if any.
    ///
    /// `shared` names the variables of the operation that functions use. Only these are declared.
    fn declare(
        &mut self,
        statement: &str,
        shared: Option<&HashSet<&str>>,
    ) -> Result<Option<String>, DuplicateName> {
        if let Some(function) = statement.strip_prefix(FUNCTION) {
            self.add(identifiers(function).take(1))?;
            self.definitions.push_str(statement);
            self.definitions.push('\n');
            return Ok(None);
        }
        let Some(declaration) = statement.strip_prefix("local ") else {
            return Ok(Some(statement.to_owned()));
        };
        let (variables, value) = match declaration.split_once('=') {
            Some((variables, value)) if !variables.contains("--") => (variables, Some(value)),
            _ => (declaration, None),
        };
        let variables: Vec<&str> = identifiers(variables).collect();
        let listed = variables.join(", ");
        let changes = variables.iter().any(|name| self.changed.contains(*name));
        let kind = match value.filter(|_| !changes) {
            Some(value) => self.kind_of(value),
            None => ValueKind::Variable,
        };
        if kind == ValueKind::Variable
            && shared.is_some_and(|shared| !variables.iter().any(|v| shared.contains(v)))
        {
            return Ok(Some(statement.to_owned()));
        }
        self.add(variables.iter().copied())?;
        if kind == ValueKind::Literal {
            let _ = writeln!(self.definitions, "{statement}"); // A String takes everything.
        } else {
            let _ = writeln!(self.definitions, "local {listed}");
        }
        let value = value.unwrap_or(" nil");
        match kind {
            ValueKind::Variable => return Ok(Some(format!("{listed} ={value}"))),
            ValueKind::Constant => {
                // In `local unpack = … or unpack` the declared variable hides the global of the same name.
                let value = value.replace("or unpack", "or _G.unpack");
                self.first_call.push(format!("{listed} ={value}"));
                self.constants.extend(variables.into_iter().map(str::to_owned));
            }
            ValueKind::Literal => self.constants.extend(variables.into_iter().map(str::to_owned)),
        }
        Ok(None)
    }

    fn add<'a>(&mut self, mut names: impl Iterator<Item = &'a str>) -> Result<(), DuplicateName> {
        let all_are_new = names.all(|name| self.names.insert(name.to_owned()));
        all_are_new.then_some(()).ok_or(DuplicateName)
    }

    /// Classifies a value by its words: is it the same at each call?
    fn kind_of(&self, value: &str) -> ValueKind {
        let mut kind = ValueKind::Literal;
        for token in tokens(value) {
            match token {
                Token::Text | Token::Space => {}
                Token::Word(word) => {
                    if word.starts_with("math.")
                        || word.starts_with("string.")
                        || word.starts_with("table.")
                        || matches!(word, "or" | "unpack")
                    {
                        kind = ValueKind::Constant;
                    } else if !self.constants.contains(word) {
                        return ValueKind::Variable;
                    }
                }
                Token::Sign(sign) if sign.is_ascii_digit() || ".,+-*/()".contains(sign) => {}
                Token::Sign(_) => return ValueKind::Variable,
            }
        }
        kind
    }

    fn write(&self, name: &str, main: &str) -> String {
        let mut code = format!("#!lua name={name}\nlocal KEYS, ARGV\n{}", self.definitions);
        let first = self.write_functions(&mut code, "first_call", &self.first_call);
        let each = self.write_functions(&mut code, "each_call", &self.each_call);
        // Keys and arguments may be large, so they are dropped at the end of the call.
        let _ = write!(
            code,
            "local function main()\n{main}end\nlocal is_ready\n\
             redis.register_function{{ function_name = '{name}', callback = function(keys, args)\n\
             if not is_ready then\n{first}is_ready = true\nend\n\
             KEYS, ARGV = keys, args\n{each}local answer = main()\nKEYS, ARGV = nil, nil\nreturn answer\nend }}\n"
        );
        code
    }

    /// Divides statements among functions; returns the calls of these.
    fn write_functions(&self, code: &mut String, name: &str, statements: &[String]) -> String {
        let (mut calls, mut used, mut open) = (String::new(), HashSet::new(), 0);
        for statement in statements {
            let names = identifiers(statement).filter(|name| self.names.contains(*name));
            let names: HashSet<&str> = names.collect();
            if open == 0 || used.union(&names).count() > MOST_UPVALUES {
                if open > 0 {
                    code.push_str("end\n");
                }
                open += 1;
                used.clear();
                let _ = writeln!(code, "local function {name}_{open}()");
                let _ = writeln!(calls, "{name}_{open}()");
            }
            used.extend(names);
            code.push_str(statement);
            code.push('\n');
        }
        if open > 0 {
            code.push_str("end\n");
        }
        calls
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    /// Numbers and texts.
    Literal,
    /// Computed from literals by Lua's own libraries.
    Constant,
    Variable,
}
