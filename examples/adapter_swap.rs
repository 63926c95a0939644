//! LoRA adapters by name, swapped while a model stays loaded.
//!
//! ```text
//! cargo run --release --example adapter_swap                                   # the small model, random adapters
//! cargo run --release --example adapter_swap -- MODEL code=DIR chat=DIR        # your own
//! ```

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use metal_candle::{
    Backend,
    adapters::{Adapter, AdapterRegistry, ApplyAdapter, LoraConfig, TargetModules},
    backend::Cpu,
    formats::Checkpoint,
    generation::{GenerateOptions, SamplingOptions, generate},
    models::{self, CausalLm, LoadOptions},
    tokenizer::Tokenizer,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Greedy, so that what differs is the adapter's doing.
fn continued<B: Backend>(
    model: &dyn CausalLm<B>,
    tokenizer: &Tokenizer,
    prompt: &str,
) -> Outcome<String> {
    let options = GenerateOptions {
        max_tokens: 24,
        sampling: SamplingOptions::default(),
        stop: vec!["\n\n".into()],
        stop_tokens: tokenizer.eos_ids().to_vec(),
    };
    let prompt = tokenizer.encode(prompt, true)?;
    Ok(generate(model, Some(tokenizer), &prompt, &options, |_| ())?.text)
}

/// Adapters that nobody trained, on all linear layers: strong enough to be told apart.
fn random<B: Backend>(registry: &AdapterRegistry<B>, model: &dyn CausalLm<B>) -> Outcome<()> {
    for (seed, name) in ["code", "chat", "docs"].into_iter().enumerate() {
        let config = LoraConfig::new(8, 16.0, TargetModules::AllLinear);
        let adapter = Adapter::random(config, model.slots().table(), 0.1, seed as u64)?;
        registry.add_adapter(name, adapter)?;
    }
    Ok(())
}

/// The times of swaps between the first two adapters.
fn timed<B: Backend>(registry: &AdapterRegistry<B>, names: &[String]) -> Outcome<Vec<Duration>> {
    let mut times = Vec::with_capacity(2000);
    for i in 0..2000 {
        let start = Instant::now();
        registry.apply_adapter(&names[i % 2])?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn run(model: &Path, adapters: &[(String, PathBuf)], prompt: &str) -> Outcome<()> {
    let checkpoint = Checkpoint::open(model)?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &Default::default())?;
    let model: Arc<dyn CausalLm<Cpu>> = model.into();

    println!("1. Adapters are registered by name");
    let registry = AdapterRegistry::new(model.slots());
    for (name, folder) in adapters {
        registry.load_adapter(name, folder)?;
    }
    if adapters.is_empty() {
        random(&registry, &*model)?;
    }
    let infos = registry.list_adapters();
    for info in &infos {
        let (rank, modules, kib) = (info.rank, info.modules, info.bytes >> 10);
        println!("   {:8} rank {rank}, {modules} modules, {kib} KiB", info.name);
    }
    let names: Vec<String> = infos.into_iter().map(|info| info.name).collect();

    println!("\n2. One at a time; the base is loaded once and never changed");
    println!("   {:8} {:?}", "(base)", continued(&*model, &tokenizer, prompt)?);
    for name in &names {
        registry.apply_adapter(name)?;
        println!("   {name:8} {:?}", continued(&registry.adapt(&model)?, &tokenizer, prompt)?);
    }

    if let [first, second, ..] = &names[..] {
        println!("\n3. Several at once, each with a weight");
        registry.apply_adapters(&[(first, 0.5), (second, 0.5)])?;
        println!("   {:?}", continued(&registry.adapt(&model)?, &tokenizer, prompt)?);

        println!("\n4. What runs keeps what it began with");
        registry.apply_adapter(first)?;
        let running = registry.adapt(&model)?;
        let expected = continued(&running, &tokenizer, prompt)?;
        registry.apply_adapter(second)?;
        registry.unload_adapter(first)?;
        let same = continued(&running, &tokenizer, prompt)? == expected;
        println!("   after {first} was unloaded, the same text: {same}");
        if !same {
            return Err("a running model changed its adapter".into());
        }
        drop(running);
        println!("   {} KiB in use once it is done", registry.bytes_used() >> 10);
    }

    let names: Vec<String> = registry.list_adapters().into_iter().map(|info| info.name).collect();
    if names.len() > 1 {
        println!("\n5. How long a swap takes");
        let times = timed(&registry, &names)?;
        let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
        println!("   median {:?}, 99 % below {:?}", at(0.5), at(0.99));
    }
    registry.remove_adapter();
    println!("\nback to the base: {}", !registry.has_adapter());
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/shakespeare-llama");
    let model = arguments.next().map_or(default, PathBuf::from);
    let named = |text: String| match text.split_once('=') {
        Some((name, folder)) => Ok((name.to_owned(), PathBuf::from(folder))),
        None => Err(format!("{text:?}: expected NAME=DIR")),
    };
    let adapters: Vec<_> = arguments.map(named).collect::<Result<_, _>>()?;
    run(&model, &adapters, "ROMEO.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_adapters_say_different_things() {
        run(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/shakespeare-llama"),
            &[],
            "ROMEO.\n",
        )
        .expect("the demonstration");
    }

    #[test]
    fn adapters_are_told_apart() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/shakespeare-llama");
        let checkpoint = Checkpoint::open(&path).expect("checkpoint");
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer");
        let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &Default::default());
        let model: Arc<dyn CausalLm<Cpu>> = model.expect("model").into();
        let registry = AdapterRegistry::new(model.slots());
        random(&registry, &*model).expect("adapters");
        let mut texts = vec![continued(&*model, &tokenizer, "ROMEO.\n").expect("text")];
        for name in ["code", "chat", "docs"] {
            registry.apply_adapter(name).expect("applied");
            let model = registry.adapt(&model).expect("this model");
            let text = continued(&model, &tokenizer, "ROMEO.\n").expect("text");
            assert!(!texts.contains(&text), "{name} says {text:?} too");
            texts.push(text);
        }
        registry.remove_adapter();
        let base = registry.adapt(&model).expect("this model");
        assert_eq!(continued(&base, &tokenizer, "ROMEO.\n").expect("text"), texts[0]);
    }
}
