//! The generated texts of one small kernel of each family, as they were last read and accepted: what
//! a change to a kernel, or another CubeCL, does to them is seen in the review.
//!
//! Whether they are right is for `kernels`, `msl`, `naga` and `spirv` to say. CONTRIBUTING.md has the
//! command that renews the snapshots.
//!
//! SPIR-V is left out. CubeCL keeps variables in maps without order, and there the ids of all
//! instructions follow from the order that came out; in the texts only the declarations do, which
//! [`settled`] sorts.

use std::{collections::BTreeSet, fs, path::Path};

use metal_candle_kernels::{build::LANGUAGES, table};

/// Between them: sums by planes and through shared memory, f32, f16 and blocks.
const KERNELS: [&str; 12] = [
    "add_rms_norm_shared16",
    "attention_decode_d64_f16_r1_plane32",
    "attention_decode_d64_f32_r1_shared64",
    "attention_merge_d64",
    "copy_1",
    "dequantise_q4_0_f16",
    "matvec_f32_b1_g1r2_plane32x4",
    "matvec_q4_1_b1_g8r2_plane32x2_bytes",
    "matvec_q4_0_b2_g4r1_plane32",
    "norm_matvec_f16_b1_g4r2_plane32",
    "rope_append_halves_f16",
    "swiglu",
];

/// What all of them may take, in bytes: they are there to be read. (A thread of `attention_decode` has two
/// pieces of four keys, whose halves are taken apart one by one: 248 KB. The last joins of
/// `attention_merge`, 45 KB of it, are unrolled: so they were timed.)
const LIMIT: u64 = 840 << 10;

/// Each of them with the languages that it is made for.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let table = table();
    KERNELS.into_iter().flat_map(move |name| {
        let kernel = table.iter().find(|kernel| kernel.name() == name);
        let made = kernel.unwrap_or_else(|| panic!("{name} is not in the table")).languages();
        let languages = LANGUAGES.into_iter().zip(made);
        languages
            .filter(|(language, made)| *made && *language != "spirv")
            .map(move |(l, _)| (name, l))
    })
}

/// Whether a line declares what CubeCL lists in any order: a vector type, a local variable, or a
/// shared array.
fn declares(line: &str) -> bool {
    let c_variable = line.split_once(' ').is_some_and(|(_, name)| {
        name.starts_with("l_mut_") && name.ends_with(';') && !name.contains(' ')
    });
    let starts = ["struct ", "var l_mut_", "var<workgroup> ", "// Shared "];
    c_variable || starts.iter().any(|start| line.starts_with(start))
}

/// Whether the next line belongs to these: to the note of a shared array's size, or to a type.
fn is_open(lines: &str) -> bool {
    lines.starts_with("// Shared ") && !lines.contains('\n')
        || lines.starts_with("struct ") && !lines.ends_with("};")
}

/// A text as every build gives it: declarations sorted, without blank lines, and without the place
/// that a shared array has got in the memory of all.
fn settled(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line = match line.split_once("&dynamic_shared_mem[") {
            Some((before, at)) => {
                let after = at.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}&dynamic_shared_mem[_{after}")
            }
            None => line.to_owned(),
        };
        match lines.last_mut() {
            Some(open) if is_open(open) => {
                open.push('\n');
                open.push_str(&line);
            }
            _ => lines.push(line),
        }
    }
    lines.chunk_by_mut(|a, b| declares(a) && declares(b)).for_each(<[String]>::sort);
    lines.join("\n") + "\n"
}

/// A kernel in a language.
fn text(name: &str, language: &str) -> String {
    let path = Path::new(env!("METAL_CANDLE_KERNELS")).join(format!("text/{name}.{language}"));
    let text = fs::read_to_string(&path);
    settled(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn declarations_are_sorted_and_nothing_else_is() {
    let wgsl = [
        "var<workgroup> b: f32;",
        "",
        "var<workgroup> a: f32;",
        "",
        "fn k() {",
        "var l_mut_2: u32;",
        "var l_mut_1: u32;",
        "l_mut_2 = 2u;",
        "l_mut_1 = 1u;",
        "}",
    ];
    let order = [2, 0, 4, 6, 5, 7, 8, 9];
    assert_eq!(settled(&wgsl.join("\n")), order.map(|line| wgsl[line].to_owned() + "\n").concat());
    let c = [
        "struct B {\n  int b;\n};",
        "struct A {\n  int c;\n};",
        "void k() {",
        "uint l_mut_2;",
        "float l_mut_3;",
        "// Shared value size: 8 bytes\nT& z = x(&dynamic_shared_mem[_]);",
        "// Shared array size: 4, 16 bytes\nT* y = x(&dynamic_shared_mem[_]);",
        "b;",
        "a;",
    ];
    let order = [1, 0, 2, 6, 5, 4, 3, 7, 8];
    assert_eq!(
        settled(&c.join("\n").replace("[_]", "[16]")),
        order.map(|line| c[line].to_owned() + "\n").concat()
    );
}

#[test]
fn texts_are_those_that_were_accepted() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/kernels");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, language) in all() {
            insta::assert_snapshot!(format!("{name}_{language}"), text(name, language));
        }
    });
    // None is left of a kernel that is gone from the list.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/kernels");
    let expected: BTreeSet<String> =
        all().map(|(name, language)| format!("{name}_{language}.snap")).collect();
    let (mut found, mut bytes) = (BTreeSet::new(), 0);
    for file in fs::read_dir(&folder).expect("the folder of snapshots") {
        let file = file.expect("a file");
        found.insert(file.file_name().into_string().expect("a plain name"));
        bytes += file.metadata().expect("a size").len();
    }
    assert_eq!(found, expected);
    assert!(bytes <= LIMIT, "{bytes} bytes of snapshots");
}
