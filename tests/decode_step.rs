//! What one decode step launches. In a test program of its own: launches are recorded from before
//! the first device is opened.

mod support;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use metal_candle::{
    adapters::{Adapter, AdapterRegistry, ApplyAdapter, LoraConfig, TargetModules},
    backend::{
        Backend, Chosen, Wgpu,
        wgpu::{ShaderLanguage, TASKS_PER_SUBMISSION, submissions},
    },
    dispatch::{Kernels, Launch, Origin, Recorder},
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    nn::Deltas,
};
use support::fixture;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// Bind groups that were made.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// Counts them.
struct BindGroups;

impl<S: Subscriber> Layer<S> for BindGroups {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().ends_with("dispatch::groups") {
            MADE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_decode_step_runs_pregenerated_kernels() {
    tracing_subscriber::registry().with(BindGroups).init();
    let log = tempfile::tempdir().expect("folder");
    let mut recorder = Recorder::install(log.path().join("launches")).expect("a fresh process");
    let checkpoint = Checkpoint::open(&fixture("models/shakespeare-llama")).expect("fixture");
    for language in [ShaderLanguage::SpirV, ShaderLanguage::Wgsl] {
        let (device, _) = support::wgpu(language);
        let kernels = Kernels::of(&device);
        let model =
            models::load::<Wgpu>(&checkpoint, LoadOptions::default(), &device).expect("loads");
        let mut cache = model.new_cache(&[0], 96);
        let submitted = Cell::new(0);
        let mut step = |tokens: &[u32]| -> Vec<Launch> {
            let batch = TokenBatch::new(&[tokens]).expect("tokens");
            let before = submissions(&device).expect("a queue");
            let logits = model.forward(&batch, Some(&mut cache), LogitRows::Last).expect("forward");
            logits.into_data();
            // Asking is one of them.
            submitted.set(submissions(&device).expect("a queue") - before - 1);
            recorder.take(&kernels).expect("the log")
        };
        let prompt: Vec<u32> = (0..20).collect();
        let launches = step(&prompt);
        let flash = |l: &&Launch| {
            l.origin == Origin::Pregenerated && l.kernel.starts_with("attention_flash")
        };
        let layers = model.config().layers;
        assert_eq!(launches.iter().filter(flash).count(), layers, "{launches:#?}");
        // The first says how much memory is to be waited for, the second is shown it.
        (39..41).for_each(|token| drop(step(&[token])));
        let launches = step(&[49]);
        // Those of the launches (two more, for the first ones are short), and one of the copy that the
        // read-back takes.
        let most = launches.len().div_ceil(TASKS_PER_SUBMISSION) as u64 + 2 + 1;
        // What a step uploads (its token, its sizes) may cut one of them in two.
        let submitted = submitted.get();
        assert!(submitted <= most + 1, "{submitted} submissions in one step");
        let mut counts: BTreeMap<(Origin, &str), usize> = BTreeMap::new();
        for launch in &launches {
            *counts.entry((launch.origin, launch.kernel.as_str())).or_default() += 1;
        }
        println!("{language:?}: {} launches\n{counts:#?}", launches.len());

        // Once what changes from step to step has been everywhere it goes, all are found again.
        (0..30).for_each(|token| drop(step(&[token])));
        let made = MADE.load(Ordering::Relaxed);
        assert!(made > 0, "nobody says when one is made");
        (0..10).for_each(|token| drop(step(&[token])));
        assert_eq!(MADE.load(Ordering::Relaxed), made, "bind groups made in steps like any other");

        let count = |origin, prefix: &str| {
            launches.iter().filter(|l| l.origin == origin && l.kernel.starts_with(prefix)).count()
        };
        let pregenerated = |prefix| count(Origin::Pregenerated, prefix);
        // q with k and v, gate with up, and the output, behind their norms; o and down with the residual.
        assert_eq!(pregenerated("norm_matvec"), 2 * layers + 1);
        assert_eq!(pregenerated("matvec"), 2 * layers);
        // Queries and keys are turned there, too; so few keys are one part.
        assert_eq!(pregenerated("attention_rotary_decode"), layers);
        // The token's row.
        assert_eq!(pregenerated("rows"), 1);
        assert_eq!(count(Origin::Pregenerated, ""), 5 * layers + 2, "{counts:#?}");
        assert_eq!(count(Origin::Jit, ""), 0, "{counts:#?}");
        assert_eq!(count(Origin::Burn, ""), 0, "{counts:#?}");

        // Listed ahead, all of it waits for one submission.
        let batch = TokenBatch::new(&[&[49]]).expect("tokens");
        let logits = model.forward(&batch, Some(&mut cache), LogitRows::Last).expect("forward");
        Wgpu::read_while(logits, || model.look_ahead(&mut cache, Deltas::NONE)).expect("read");
        kernels.sync();
        recorder.take(&kernels).expect("the log");
        let before = submissions(&device).expect("a queue");
        let logits = model.forward(&batch, Some(&mut cache), LogitRows::Last).expect("forward");
        kernels.sync();
        let submitted = submissions(&device).expect("a queue") - before - 1;
        let listed = recorder.take(&kernels).expect("the log");
        println!("{language:?}: {submitted} submissions when listed ahead");
        let names = |launches: &[Launch]| -> Vec<String> {
            launches.iter().map(|launch| launch.kernel.clone()).collect()
        };
        assert_eq!(names(&listed), names(&launches));
        assert_eq!(submitted, 1, "submissions of a step that was listed ahead");
        drop(logits);

        // So does one whose token the device has chosen. It chooses again, and that is read by the same
        // submission. The first ones show places to wgpu that were not used before.
        let logits = model.forward(&batch, Some(&mut cache), LogitRows::Last).expect("forward");
        let logits = logits.reshape([1, model.config().vocabulary]);
        let mut chosen = Wgpu::likeliest(&logits).expect("a kernel");
        // So do two of them, one behind the other.
        for steps in [1, 2] {
            let mut go_on = |chosen: &Chosen<Wgpu>| {
                let mut next = model.choose_next(chosen, steps, &mut cache, Deltas::NONE);
                assert_eq!(next.len(), steps);
                next.pop().expect("there are some")
            };
            for _ in 0..4 {
                chosen = go_on(&chosen);
            }
            kernels.sync();
            recorder.take(&kernels).expect("the log");
            let before = submissions(&device).expect("a queue");
            chosen = go_on(&chosen);
            Wgpu::read_chosen(&chosen, || ()).expect("read");
            let submitted = submissions(&device).expect("a queue") - before - 1;
            let followed = names(&recorder.take(&kernels).expect("the log"));
            // Of pieces of the vocabulary, and of what these leave.
            let wanted = [names(&launches), ["largest"; 2].map(String::from).to_vec()].concat();
            assert_eq!(followed, vec![wanted; steps].concat());
            println!("{language:?}: {submitted} submissions when the device chose {steps} tokens");
            assert!(submitted <= 2, "{submitted} submissions of {steps} steps");
        }

        // With an adapter there are as many: its products are a part of the base's.
        let model: Arc<dyn CausalLm<Wgpu>> = model.into();
        let registry = AdapterRegistry::new(model.slots());
        let config = LoraConfig::new(16, 32.0, TargetModules::AllLinear);
        let adapter = Adapter::random(config, model.slots().table(), 1e-3, 1).expect("adapter");
        registry.add_adapter("a", adapter).expect("registered");
        registry.apply_adapter("a").expect("applied");
        let adapted = registry.adapt(&model).expect("this model");
        let mut step = || {
            let batch = TokenBatch::new(&[&[49]]).expect("tokens");
            let logits = adapted.forward(&batch, Some(&mut cache), LogitRows::Last);
            logits.expect("forward").into_data();
            recorder.take(&kernels).expect("the log")
        };
        step();
        let adapted = step();
        assert_eq!(adapted.len(), launches.len(), "{:#?}", names(&adapted));
        let lora = adapted.iter().filter(|l| l.kernel.starts_with("lora_")).count();
        assert_eq!(lora, 4 * layers, "{:#?}", names(&adapted));
    }
}
