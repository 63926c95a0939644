//! The kernels that a text defines, and how their parameters are bound.

use crate::error::Error;
use crate::lexer::{Kind, Token, closing};

/// A kernel function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Line of its name, from 1.
    pub line: u32,
    /// Its parameters, in declaration order.
    pub parameters: Vec<Parameter>,
}

/// One parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Line of its name, from 1.
    pub line: u32,
    /// What it stands for.
    pub binding: Binding,
    /// Whether the binding is spelt out, as `[[buffer(n)]]` or `[[threadgroup(n)]]`.
    pub explicit: bool,
    /// Whether it is a reference, and not a pointer.
    pub reference: bool,
    /// Whether a pointer or reference names its address space.
    pub address_space: Option<&'static str>,
}

/// What a kernel's parameter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A buffer of the launch.
    Buffer(u32),
    /// Threadgroup memory that is passed from outside.
    Threadgroup(u32),
    /// A position or a size, by its attribute's name.
    Builtin(&'static str),
}

/// The attributes of positions and sizes that the runtime offers.
const BUILTINS: [&str; 15] = [
    "thread_position_in_grid",
    "threadgroup_position_in_grid",
    "thread_position_in_threadgroup",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup",
    "threadgroups_per_grid",
    "threads_per_grid",
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "threads_per_simdgroup",
    "thread_execution_width",
    "simdgroups_per_threadgroup",
    "quadgroup_index_in_threadgroup",
    "thread_index_in_quadgroup",
];

/// The address spaces of pointers and references.
pub(crate) const ADDRESS_SPACES: [&str; 4] = ["device", "constant", "threadgroup", "thread"];

/// A kernel's head: its name and the tokens between its parentheses.
pub(crate) struct Head {
    pub name: usize,
    pub open: usize,
    pub close: usize,
}

/// The kernels that `code` (tokens without comments) defines.
pub(crate) fn heads(code: &[Token]) -> Vec<Head> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < code.len() {
        if !code[i].is("kernel") {
            i += 1;
            continue;
        }
        // From the word, or from `[[kernel]]`, up to the parameters' parenthesis.
        let attributed = i >= 2 && opens_attribute(code, i - 2);
        let mut j = if attributed { closing(code, i - 2).unwrap_or(i) + 1 } else { i + 1 };
        while j < code.len() && !(code[j].is("(") || code[j].is(";") || code[j].is("{")) {
            j += if opens_attribute(code, j) {
                closing(code, j).map_or(1, |c| c + 1 - j)
            } else {
                1
            };
        }
        let close = if code.get(j).is_some_and(|t| t.is("(")) { closing(code, j) } else { None };
        if let Some(close) = close
            && code.get(close + 1).is_some_and(|t| t.is("{"))
            && code[j - 1].kind == Kind::Word
        {
            found.push(Head { name: j - 1, open: j, close });
            i = close + 1;
        } else {
            i += 1;
        }
    }
    found
}

/// Whether an attribute `[[` begins at `i`.
pub(crate) fn opens_attribute(code: &[Token], i: usize) -> bool {
    code[i].is("[") && code.get(i + 1).is_some_and(|t| t.is("[") && t.start == code[i].end())
}

/// Reads the parameters of a kernel.
pub(crate) fn kernel(code: &[Token], head: &Head) -> Result<Kernel, Error> {
    let mut parameters = Vec::new();
    for range in split(code, head.open + 1, head.close) {
        parameters.push(parameter(&code[range])?);
    }
    // Where the attribute is missing, Metal counts on from what is taken.
    let mut next = 0;
    let mut next_threadgroup = 0;
    let taken: Vec<_> = parameters.iter().filter(|p| p.explicit).map(|p| p.binding).collect();
    for parameter in &mut parameters {
        if parameter.explicit {
            continue;
        }
        let (number, make): (&mut u32, fn(u32) -> Binding) = match parameter.binding {
            Binding::Buffer(_) => (&mut next, Binding::Buffer),
            Binding::Threadgroup(_) => (&mut next_threadgroup, Binding::Threadgroup),
            Binding::Builtin(_) => continue,
        };
        while taken.contains(&make(*number)) {
            *number += 1;
        }
        parameter.binding = make(*number);
        *number += 1;
    }
    let name = &code[head.name];
    Ok(Kernel { name: name.text.to_owned(), line: name.line, parameters })
}

/// The ranges between the commas of `code[from..to]` that are outside all brackets.
fn split(code: &[Token], from: usize, to: usize) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (from, 0i32);
    for (i, token) in code.iter().enumerate().take(to).skip(from) {
        match (token.kind, token.text) {
            (Kind::Sign, "(" | "[" | "{" | "<") => depth += 1,
            (Kind::Sign, ")" | "]" | "}" | ">") => depth -= 1,
            (Kind::Sign, ",") if depth == 0 => {
                found.push(start..i);
                start = i + 1;
            }
            _ => {}
        }
    }
    if start < to {
        found.push(start..to);
    }
    found
}

fn parameter(code: &[Token]) -> Result<Parameter, Error> {
    let line = code.first().map_or(0, |t| t.line);
    let failed = |reason: String| Error::Source { line, reason };
    let spelt = || code.iter().map(|t| t.text).collect::<Vec<_>>().join(" ");
    let mut binding = None;
    let mut declaration = Vec::new();
    let mut i = 0;
    while i < code.len() {
        if !opens_attribute(code, i) {
            declaration.push(code[i]);
            i += 1;
            continue;
        }
        let end = closing(code, i)
            .ok_or_else(|| failed(format!("`{}`: an attribute without end", spelt())))?;
        binding = binding.or(attribute(&code[i + 2..end]));
        i = end + 1;
    }
    let named = declaration.iter().rposition(|t| t.kind == Kind::Word);
    let (Some(named), true) = (named, declaration.len() > 1) else {
        return Err(failed(format!("a parameter needs a type and a name, found `{}`", spelt())));
    };
    let has = |sign: &str| declaration.iter().any(|t| t.is(sign));
    let reference = has("&");
    let points = reference || has("*") || has("[");
    let address_space = ADDRESS_SPACES.into_iter().find(|s| has(s));
    let implicit = match address_space {
        Some("threadgroup") => Some(Binding::Threadgroup(0)),
        _ if points => Some(Binding::Buffer(0)),
        _ => None,
    };
    let explicit = binding.is_some();
    let binding = binding
        .or(implicit)
        .ok_or_else(|| failed(format!("parameter `{}` has no known attribute", spelt())))?;
    if points == matches!(binding, Binding::Builtin(_)) {
        return Err(failed(format!(
            "parameter `{}`: memory is a pointer or a reference, a position is not",
            spelt()
        )));
    }
    let name = &declaration[named];
    Ok(Parameter {
        name: name.text.to_owned(),
        line: name.line,
        binding,
        explicit,
        reference,
        address_space,
    })
}

/// The binding that an attribute's tokens name, if it names one.
fn attribute(code: &[Token]) -> Option<Binding> {
    let first = code.first()?;
    let number = || code.get(2).and_then(|t| t.text.parse().ok());
    match first.text {
        "buffer" => number().map(Binding::Buffer),
        "threadgroup" => number().map(Binding::Threadgroup),
        name => BUILTINS.into_iter().find(|&b| b == name).map(Binding::Builtin),
    }
}
