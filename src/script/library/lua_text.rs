//! Reads Lua text as far as a library needs it: statements, tokens and names.

/// The statements of a source, without the comments between them.
pub(super) fn statements(source: &str) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for line in source.lines() {
        if line.trim().is_empty() || line.starts_with("--") {
            continue;
        }
        let first_word = line.split(|c: char| !is_part(c)).next().unwrap_or_default();
        let closes = line.starts_with(['}', ')', ']'])
            || matches!(first_word, "end" | "else" | "elseif" | "until" | "then" | "do");
        match statements.last_mut() {
            Some(last) if closes || line.starts_with([' ', '\t']) => {
                last.push('\n');
                last.push_str(line);
            }
            _ => statements.push(line.to_owned()),
        }
    }
    statements
}

pub(super) enum Token<'a> {
    /// Blanks and comments.
    Space,
    Text,
    /// A name, with the fields that are named behind it: `math.floor`.
    Word(&'a str),
    Sign(char),
}

/// The words of a piece of Lua.
pub(super) fn tokens(source: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = source;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match first {
            '\'' | '"' => text_end(rest, first),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '.' if rest.starts_with("..") => 2,
            _ if first.is_whitespace() => first.len_utf8(),
            _ if first.is_ascii_digit() => rest.find(|c: char| !is_part(c)).unwrap_or(rest.len()),
            _ if is_part(first) => rest.find(|c: char| !is_part(c) && c != '.').unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        // `a..b` is no field of `a`.
        let end = match rest.get(..end).and_then(|word| word.find("..")) {
            Some(at) if is_part(first) && at > 0 => at,
            _ => end,
        };
        let (token, left) = rest.split_at_checked(end)?;
        rest = left;
        Some(match first {
            '\'' | '"' => Token::Text,
            '-' if token.len() > 1 => Token::Space,
            '.' if token.len() > 1 => Token::Sign('+'),
            _ if first.is_whitespace() => Token::Space,
            _ if first.is_ascii_digit() => Token::Sign('0'),
            _ if is_part(first) => Token::Word(token),
            sign => Token::Sign(sign),
        })
    })
}

pub(super) fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

pub(super) fn text_end(source: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in source.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    source.len()
}

/// The names in a piece of Lua, without those of fields.
pub(super) fn identifiers(source: &str) -> impl Iterator<Item = &str> {
    let mut is_field = false;
    tokens(source).filter_map(move |token| {
        let was_field = std::mem::replace(&mut is_field, matches!(token, Token::Sign('.' | ':')));
        match token {
            Token::Word(word) if !was_field => word.split('.').next(),
            _ => None,
        }
    })
}

/// The names that a source sets elsewhere than where it declares them. A field of a table constructor counts as well: its
/// name may be that of a variable.
pub(super) fn changed_names(source: &str) -> Vec<String> {
    let tokens: Vec<Token<'_>> = tokens(source)
        .filter(|token| !matches!(token, Token::Space))
        .collect();
    let sign_at = |at: usize, sign| matches!(tokens.get(at), Some(Token::Sign(other)) if *other == sign);
    let (mut changed, mut at) = (Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        let is_declaration = matches!(token, Token::Word("local"));
        at += usize::from(is_declaration);
        // A list of names.
        let mut names = Vec::new();
        while let Some(Token::Word(name)) = tokens.get(at) {
            names.push(*name);
            at += 1;
            if !sign_at(at, ',') {
                break;
            }
            at += 1;
        }
        if names.is_empty() {
            at += 1;
        } else if !is_declaration && sign_at(at, '=') && !sign_at(at + 1, '=') {
            changed.extend(names.into_iter().map(str::to_owned));
        }
    }
    changed
}
