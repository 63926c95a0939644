//! Adapters by name: swapping, memory, threads.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use burn::tensor::DType;
use metal_candle::{
    Backend,
    adapters::{AdapterRegistry, ApplyAdapter},
    backend::Cpu,
    generation::{GenerateOptions, SamplingOptions, generate},
    models::CausalLm,
};

use crate::{
    allocations::live_bytes,
    models::{ADAPTERS, adapted, load, logits, registry, swap},
    support::{EveryBackend, Golden, fixture, max_abs_diff, on},
};

fn ids() -> Vec<Vec<u32>> {
    Golden::open("reference/lora/llama/all_linear/reference.safetensors").ids("input_ids")
}

fn folder(name: &str) -> std::path::PathBuf {
    fixture(&format!("reference/lora/llama/{name}"))
}

#[test]
fn swaps_leave_host_memory_flat() {
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let registry = registry(&model, "llama");
    swap(&registry, 100);
    registry.remove_adapter();
    let (before, bytes) = (live_bytes(), registry.bytes_used());
    assert!(bytes > 0);
    swap(&registry, 10_000);
    registry.remove_adapter();
    assert_eq!(live_bytes() - before, 0, "bytes are left after 10,000 swaps");
    assert_eq!(registry.bytes_used(), bytes);
}

#[test]
fn what_runs_keeps_its_adapters() {
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let registry = registry(&model, "llama");
    let before = adapted(&model, &registry, &[("all_linear", 1.0), ("dora", 0.5)]);
    let want = logits(&before, &ids());
    registry.unload_adapter("all_linear").expect("unloaded");
    assert!(!registry.has_adapter(), "what is unloaded is not applied");
    registry.unload_adapter("dora").expect("unloaded");
    registry.apply_adapter("rslora_qv").expect("applied");
    assert!(max_abs_diff(&logits(&before, &ids()), &want) == 0.0);
    let with_it = registry.bytes_used();
    drop(before);
    let rest = registry.list_adapters();
    assert_eq!(registry.bytes_used(), rest.iter().map(|info| info.bytes).sum::<u64>());
    assert!(with_it > registry.bytes_used(), "the last one that ran freed the memory");
    let names: Vec<_> = rest.iter().map(|info| (info.name.as_str(), info.applied)).collect();
    assert_eq!(names, [("rslora_qv", Some(1.0))]);

    let error = registry.apply_adapter("dora").expect_err("unloaded").to_string();
    assert_eq!(error, "no adapter is called \"dora\" (there are: rslora_qv)");
    let error = registry.load_adapter("rslora_qv", &folder("dora")).expect_err("taken");
    assert!(error.to_string().contains("\"rslora_qv\" already"), "{error}");
    let other = load::<Cpu>("reference/models/llama3", DType::F32, true, &Default::default());
    let error = registry.adapt(&other).expect_err("another model").to_string();
    assert!(error.contains("another model"), "{error}");
}

#[test]
fn sizes_are_what_is_allocated() {
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let registry = registry(&model, "llama");
    for info in registry.list_adapters() {
        let set = registry.set(&[(&info.name, 1.0)]).expect("resident");
        let deltas = set.deltas().expect("it has some");
        assert_eq!(deltas.bytes(), info.bytes, "{}", info.name);
    }
    let combined = registry.set(&[("all_linear", 1.0), ("dora", 2.0)]).expect("a set");
    assert!(combined.deltas().expect("some").bytes() <= combined.bytes());
}

#[test]
fn a_budget_is_kept() {
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let size = |name: &str| {
        let all = registry(&model, "llama").list_adapters();
        all.into_iter().find(|info| info.name == name).expect("it is there").bytes
    };
    let (all, patterns, dora) = (size("all_linear"), size("rslora_qv"), size("dora"));
    let registry = AdapterRegistry::new(model.slots()).with_budget(all + patterns);
    for name in ADAPTERS {
        registry.load_adapter(name, &folder(name)).expect(name);
    }
    let resident = || {
        let infos = registry.list_adapters().into_iter().filter(|info| info.is_resident);
        infos.map(|info| info.name).collect::<Vec<_>>()
    };
    // The first one gave way to the last.
    assert_eq!(resident(), ["dora", "rslora_qv"]);
    let want = logits(
        &adapted(&model, &crate::models::registry(&model, "llama"), &[("all_linear", 1.0)]),
        &ids(),
    );
    let running = adapted(&model, &registry, &[("all_linear", 1.0)]);
    assert_eq!(resident(), ["all_linear"], "the others were not in use, and both had to go");
    assert!(max_abs_diff(&logits(&running, &ids()), &want) == 0.0, "it comes back as it was");
    registry.apply_adapter("rslora_qv").expect("there is room");
    // Now all that is resident is in use: one runs, one is applied.
    let error = registry.apply_adapter("dora").expect_err("no room").to_string();
    let words = format!(
        "takes {dora} bytes on the device, but {} of the budget of {}",
        all + patterns,
        all + patterns
    );
    assert!(error.contains("\"dora\"") && error.contains(&words), "{error}");
    assert_eq!(registry.active().members(), [("rslora_qv".to_owned(), 1.0)], "nothing changed");
    drop(running);
    registry.apply_adapter("dora").expect("now there is");
    assert!(registry.bytes_used() <= all + patterns);

    let small = AdapterRegistry::new(model.slots()).with_budget(all - 1);
    let error = small.load_adapter("all_linear", &folder("all_linear")).expect_err("too large");
    assert!(error.to_string().contains(&format!("takes {all} bytes")), "{error}");
    assert_eq!(small.bytes_used(), 0);
}

/// Generations on several threads while another thread swaps: each gives the tokens of the adapter
/// that it began with, from first to last.
struct Generations;

impl EveryBackend for Generations {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let model = load::<B>("reference/models/llama", DType::F32, true, device);
        let registry = registry(&model, "llama");
        let prompt = &ids()[0][..6];
        let tokens = |model: &dyn CausalLm<B>| {
            let options = GenerateOptions {
                max_tokens: 12,
                sampling: SamplingOptions::default(),
                stop: vec![],
                stop_tokens: vec![],
            };
            generate(model, None, prompt, &options, |_| ()).expect("generated").tokens
        };
        let mut expected = vec![(Vec::new(), tokens(&*model))];
        for name in ADAPTERS {
            let model = adapted(&model, &registry, &[(name, 1.0)]);
            expected.push((vec![(name.to_owned(), 1.0)], tokens(&model)));
        }
        for (i, (_, one)) in expected.iter().enumerate() {
            assert!(
                expected[..i].iter().all(|(_, other)| other != one),
                "adapters must be told apart"
            );
        }
        registry.remove_adapter();
        let (started, done) = (Instant::now(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    registry.apply_adapter(ADAPTERS[i % 3]).expect("applied");
                    thread::sleep(Duration::from_micros(200));
                }
            });
            let run = || {
                let mut seen: Vec<String> = Vec::new();
                // Until every adapter has had its turn; a minute is for a machine that hangs.
                while seen.len() < ADAPTERS.len() && started.elapsed() < Duration::from_mins(1) {
                    let model = registry.adapt(&model).expect("this model");
                    let members = model.set().members().to_vec();
                    let (_, want) =
                        expected.iter().find(|(of, _)| *of == members).expect("one of them");
                    assert_eq!(tokens(&model), *want, "{label} with {members:?}");
                    let new = members.into_iter().map(|(name, _)| name);
                    seen.extend(new.filter(|name| !seen.contains(name)).collect::<Vec<_>>());
                }
                seen.len()
            };
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            let seen: Vec<_> = runs.into_iter().map(thread::ScopedJoinHandle::join).collect();
            // Before anything is asserted: the other thread must end.
            done.store(true, Ordering::Relaxed);
            for seen in seen {
                assert_eq!(
                    seen.expect("no sequence mixes adapters"),
                    ADAPTERS.len(),
                    "of a minute"
                );
            }
        });
    }
}

#[test]
fn no_sequence_mixes_adapters() {
    for backend in ["cpu", "wgpu-spirv", "wgpu-wgsl"] {
        on(backend, &mut Generations);
    }
}
