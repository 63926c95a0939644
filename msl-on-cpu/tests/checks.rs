//! The checks of a text that need no run: address spaces, functions, wgpu's rules.

mod support;

use msl_on_cpu::{Error, INSTALL, Rule, check_opencl, check_rules};
use support::{diagnostics, kernel};

fn rejected(source: &str) -> String {
    diagnostics(&check_opencl(source).unwrap_err())
}

#[test]
fn address_spaces() {
    let source = &kernel("reduce_sum");
    check_opencl(source).unwrap();
    let cast = "reinterpret_cast<threadgroup float*>";
    let to_device = source.replace(cast, "reinterpret_cast<device float*>");
    assert!(
        rejected(&to_device)
            .starts_with("reduce_sum.metal:28:38: error: reinterpret_cast from '__local")
    );
    let declared = source.replace("threadgroup float* shared", "device float* shared");
    assert!(
        rejected(&declared)
            .starts_with("reduce_sum.metal:28:15: error: cannot initialize a variable")
    );
    let written = source.replace("device float * buffer_1", "const device float * buffer_1");
    assert!(rejected(&written).contains("read-only"));
}

#[test]
fn only_metals_functions_are_known() {
    let source = &kernel("plane_softmax");
    for (from, to) in [
        ("exp(", "native_exp("),
        ("exp(", "expm1("),
        ("simd_sum(", "sub_group_reduce_add("),
        ("simd_max(", "warp_max("),
        ("thread_pos_in_grid.z *", "get_global_id(0) *"),
    ] {
        let changed = source.replace(from, to);
        assert_ne!(*source, changed);
        assert!(rejected(&changed).contains("undeclared identifier"), "{to}");
    }
    // Metal has no overload for these pairs.
    assert!(
        rejected(&source.replace("exp(l_2)", "max(l_2, half(1.0))"))
            .contains("no matching function")
    );
    assert!(rejected(&source.replace("exp(l_2)", "exp(l_10)")).contains("no matching function"));
    check_opencl(&source.replace("exp(l_2)", "max(exp(l_2), 0.0)")).unwrap();
}

#[test]
fn the_device_fence_is_found() {
    let source = kernel("reduce_sum").replace(
        "threadgroup_barrier(mem_flags::mem_threadgroup);",
        "threadgroup_thread_fence(mem_flags::mem_device);",
    );
    let found: Vec<_> = check_rules(&source).iter().map(|v| (v.rule, v.line)).collect();
    assert_eq!(found, [(Rule::KnownFunctions, 46), (Rule::KnownFunctions, 62)]);
    assert!(rejected(&source).contains("undeclared identifier 'threadgroup_thread_fence'"));
}

#[test]
fn naga_passes_threadgroup_memory() {
    let found: Vec<_> = check_rules(&kernel("naga_reduce_sum")).iter().map(|v| v.rule).collect();
    assert_eq!(found, [Rule::NoThreadgroupArgument]);
}

#[test]
fn a_missing_compiler_names_its_installation() {
    const NAME: &str = "a_missing_compiler_names_its_installation";
    const CHILD: &str = "MSL_ON_CPU_TEST_WITHOUT_COMPILER";
    if std::env::var_os(CHILD).is_some() {
        match check_opencl("") {
            Err(error @ Error::CompilerMissing { .. }) => println!("found: {error}"),
            other => panic!("{other:?}"),
        }
        return;
    }
    assert_eq!(INSTALL, "apt-get install clang-19");
    // In a process of its own: the compiler is looked for once in each.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .envs([(CHILD, "1"), ("MSL_ON_CPU_CLANG", "/nowhere/clang++")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("found: `/nowhere/clang++` is not installed: apt-get install clang-19"),
        "{text}"
    );
}
