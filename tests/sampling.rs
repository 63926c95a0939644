//! Sampling chains against `transformers` (27 chains, 6 vectors of logits), and the behaviour of the sampler.

use metal_candle::generation::{Sampler, SamplingError, SamplingOptions, SamplingStep};
use proptest::prelude::*;
use serde_json::Value;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/reference/sampling.json");

fn reference() -> Value {
    let text = std::fs::read_to_string(REFERENCE).expect("the fixture is there");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

#[allow(clippy::cast_possible_truncation)] // the numbers were f32
fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

fn numbers(value: &Value) -> Vec<f32> {
    // null is -inf, which JSON cannot say
    let number = |value: &Value| {
        if value.is_null() { f32::NEG_INFINITY } else { number(value) }
    };
    value.as_array().expect("a list").iter().map(number).collect()
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a count")).expect("a small count")
}

fn step(description: &Value) -> SamplingStep {
    let (name, value) = (description[0].as_str().expect("a name"), &description[1]);
    match name {
        "temperature" => SamplingStep::Temperature(number(value)),
        "top_k" => SamplingStep::TopK(count(value)),
        "top_p" => SamplingStep::TopP(number(value)),
        "min_p" => SamplingStep::MinP(number(value)),
        "typical_p" => SamplingStep::TypicalP(number(value)),
        "epsilon_cutoff" => SamplingStep::EpsilonCutoff(number(value)),
        "eta_cutoff" => SamplingStep::EtaCutoff(number(value)),
        "repetition_penalty" => SamplingStep::RepetitionPenalty(number(value)),
        "presence_penalty" => SamplingStep::PresencePenalty(number(value)),
        "frequency_penalty" => SamplingStep::FrequencyPenalty(number(value)),
        "no_repeat_ngram" => SamplingStep::NoRepeatNgram(count(value)),
        "logit_bias" => {
            let biases = value.as_object().expect("an object").iter();
            let bias = |(id, bias): (&String, &Value)| (id.parse().expect("an id"), number(bias));
            SamplingStep::LogitBias(biases.map(bias).collect())
        }
        other => panic!("unknown step {other}"),
    }
}

#[test]
fn every_chain_gives_the_probabilities_of_transformers() {
    let reference = reference();
    let history: Vec<u32> = serde_json::from_value(reference["previous_tokens"].clone()).unwrap();
    let cases = reference["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 27 * 6);
    for case in cases {
        let chain = case["chain"].as_array().expect("a list");
        let vector = case["logits"].as_str().expect("a name");
        let logits = numbers(&reference["logits"][vector]);
        let mut expected = numbers(&case["probs"]);
        let sampler = Sampler::from_steps(chain.iter().map(step).collect(), Some(0)).unwrap();
        let mut found = sampler.probabilities(&logits, &history).unwrap();

        // a tie at the border of top_p may be broken either way: the same probabilities, at any place
        if vector == "ties_at_top" && chain.iter().any(|step| step[0] == "top_p") {
            expected.sort_by(f32::total_cmp);
            found.sort_by(f32::total_cmp);
        }
        let kept = found.iter().filter(|&&p| p > 0.0).count();
        assert_eq!(kept, count(&case["kept"]), "{vector} {chain:?}");
        for (id, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let context = format!("{vector} {chain:?} token {id}: {found} for {expected}");
            assert!((found - expected).abs() <= 1e-6, "{context}");
            assert_eq!(found > 0.0, expected > 0.0, "{context}");
        }
    }
}

fn options() -> SamplingOptions {
    SamplingOptions { temperature: 1.0, seed: Some(7), ..SamplingOptions::default() }
}

/// Uneven logits without ties, the same on every platform.
fn ramp(vocabulary: u32) -> Vec<f32> {
    let logit =
        |id: u32| f32::from(u16::try_from(id.wrapping_mul(40_503) % 65_521).unwrap()) / 8192.0;
    (0..vocabulary).map(logit).collect()
}

#[test]
fn the_command_lines_chain_is_penalty_temperature_top_k_top_p_min_p() {
    let options = SamplingOptions {
        temperature: 0.7,
        top_k: Some(40),
        top_p: Some(0.8),
        min_p: Some(0.1),
        repeat_penalty: Some(1.1),
        seed: Some(1),
    };
    let steps = vec![
        SamplingStep::RepetitionPenalty(1.1),
        SamplingStep::Temperature(0.7),
        SamplingStep::TopK(40),
        SamplingStep::TopP(0.8),
        SamplingStep::MinP(0.1),
    ];
    let reference = reference();
    for logits in reference["logits"].as_object().unwrap().values().map(numbers) {
        let history = [5, 5, 17, 60];
        let ours = Sampler::new(&options).unwrap().probabilities(&logits, &history);
        let chain = Sampler::from_steps(steps.clone(), Some(1)).unwrap();
        assert_eq!(ours, chain.probabilities(&logits, &history));
    }
}

#[test]
fn a_seed_gives_the_same_tokens_everywhere() {
    let logits = ramp(1000);
    let draw = |seed| {
        let options = SamplingOptions { seed: Some(seed), ..options() };
        let mut sampler = Sampler::new(&options).unwrap();
        assert_eq!(sampler.seed(), seed);
        (0..8).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(42), draw(42));
    assert_ne!(draw(42), draw(43));
    // pinned: a change here breaks everyone's reproducibility
    assert_eq!(draw(42), [671, 951, 415, 616, 278, 147, 296, 797]);
}

#[test]
fn a_missing_seed_is_random_and_reported() {
    let options = SamplingOptions { seed: None, ..options() };
    let mut first = Sampler::new(&options).unwrap();
    assert_ne!(first.seed(), Sampler::new(&options).unwrap().seed());
    let again = SamplingOptions { seed: Some(first.seed()), ..options };
    let mut second = Sampler::new(&again).unwrap();
    let logits = ramp(500);
    for _ in 0..20 {
        assert_eq!(first.sample(&logits, &[]), second.sample(&logits, &[]));
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = [0.1f32, 0.2, 0.3, 0.4].iter().map(|p| p.ln()).collect();
    let mut sampler = Sampler::new(&options()).unwrap();
    let mut counts = [0u32; 4];
    for _ in 0..40_000 {
        counts[sampler.sample(&logits, &[]).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.into_iter().zip([4_000u32, 8_000, 12_000, 16_000]) {
        assert!(count.abs_diff(expected) < 400, "{counts:?}"); // four standard deviations
    }
}

#[test]
fn greedy_takes_the_lowest_of_the_largest() {
    let mut greedy = Sampler::new(&SamplingOptions::default()).unwrap();
    assert_eq!(greedy.sample(&[1.0, 3.0, f32::NEG_INFINITY, 3.0], &[]), Ok(1));
    assert_eq!(greedy.probabilities(&[1.0, 3.0, 3.0], &[]), Ok(vec![0.0, 1.0, 0.0]));

    let options = SamplingOptions { repeat_penalty: Some(2.0), ..SamplingOptions::default() };
    let mut penalised = Sampler::new(&options).unwrap();
    assert_eq!(penalised.sample(&[1.0, 3.0, 2.0], &[1]), Ok(2));
    assert_eq!(penalised.sample(&[1.0, 3.0, 2.0], &[0, 9_999]), Ok(1));
}

#[test]
fn broken_logits_are_errors() {
    for temperature in [0.0, 1.0] {
        let options = SamplingOptions { temperature, ..options() };
        let mut sampler = Sampler::new(&options).unwrap();
        let nan = sampler.sample(&[0.0, f32::NAN], &[]).unwrap_err();
        assert!(matches!(nan, SamplingError::Logit { id: 1, .. }), "{nan}");
        let infinite = sampler.sample(&[f32::INFINITY, 0.0], &[]).unwrap_err();
        assert!(matches!(infinite, SamplingError::Logit { id: 0, .. }), "{infinite}");
        let masked = sampler.sample(&[f32::NEG_INFINITY; 3], &[]);
        assert_eq!(masked, Err(SamplingError::NothingLeft { vocabulary: 3 }));
        let empty = sampler.sample(&[], &[]);
        assert_eq!(empty, Err(SamplingError::NothingLeft { vocabulary: 0 }));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0], &[]), Ok(1));
    }
    let all = Sampler::from_steps(vec![SamplingStep::NoRepeatNgram(1)], Some(0)).unwrap();
    let error = all.probabilities(&[0.0, 0.0], &[0, 1]).unwrap_err();
    assert_eq!(error, SamplingError::NothingLeft { vocabulary: 2 });
}

#[test]
fn extreme_logits_and_temperatures_stay_finite() {
    for temperature in [f32::MIN_POSITIVE, 1e-3, 1e30, f32::MAX] {
        let options = SamplingOptions {
            temperature,
            top_p: Some(0.9),
            min_p: Some(0.01),
            repeat_penalty: Some(1.5),
            ..options()
        };
        let sampler = Sampler::new(&options).unwrap();
        let logits = [f32::MAX, f32::MIN, 0.0, f32::MAX, 1e-40];
        let sum: f32 = sampler.probabilities(&logits, &[0, 1]).unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{temperature}: {sum}");
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |change: fn(&mut SamplingOptions)| {
        let mut options = options();
        change(&mut options);
        match Sampler::new(&options) {
            Err(SamplingError::Option { option, .. }) => option,
            other => panic!("accepted {options:?}: {other:?}"),
        }
    };
    assert_eq!(refused(|o| o.temperature = f32::NAN), "temperature");
    assert_eq!(refused(|o| o.temperature = -0.1), "temperature");
    assert_eq!(refused(|o| o.temperature = f32::INFINITY), "temperature");
    assert_eq!(refused(|o| o.top_k = Some(0)), "top_k");
    assert_eq!(refused(|o| o.top_p = Some(0.0)), "top_p");
    assert_eq!(refused(|o| o.top_p = Some(1.01)), "top_p");
    assert_eq!(refused(|o| o.top_p = Some(f32::NAN)), "top_p");
    assert_eq!(refused(|o| o.min_p = Some(-0.1)), "min_p");
    assert_eq!(refused(|o| o.repeat_penalty = Some(0.0)), "repetition_penalty");
    assert_eq!(refused(|o| o.repeat_penalty = Some(f32::INFINITY)), "repetition_penalty");
    // checked although greedy choice does not use it
    let greedy = |o: &mut SamplingOptions| (o.temperature, o.top_p) = (0.0, Some(2.0));
    assert_eq!(refused(greedy), "top_p");

    let message = Sampler::new(&SamplingOptions { top_p: Some(2.0), ..options() }).unwrap_err();
    let expected = "sampling option `top_p`: expected a number above 0, at most 1, found 2";
    assert_eq!(message.to_string(), expected);
    for step in [
        SamplingStep::Temperature(0.0),
        SamplingStep::TypicalP(0.0),
        SamplingStep::EpsilonCutoff(f32::NAN),
        SamplingStep::EtaCutoff(2.0),
        SamplingStep::PresencePenalty(f32::NAN),
        SamplingStep::FrequencyPenalty(f32::INFINITY),
        SamplingStep::LogitBias(vec![(0, f32::INFINITY)]),
        SamplingStep::NoRepeatNgram(0),
    ] {
        assert!(Sampler::from_steps(vec![step.clone()], None).is_err(), "{step:?}");
    }
}

#[test]
fn a_bias_masks_or_is_refused_where_the_model_has_no_such_token() {
    let biased = |id, bias| {
        let step = SamplingStep::LogitBias(vec![(id, bias)]);
        let sampler = Sampler::from_steps(vec![step], Some(0)).unwrap();
        sampler.probabilities(&[0.0, 0.0], &[])
    };
    assert_eq!(biased(0, f32::NEG_INFINITY), Ok(vec![0.0, 1.0]));
    assert_eq!(biased(2, 1.0), Err(SamplingError::BiasedId { id: 2, vocabulary: 2 }));
}

#[test]
fn short_histories_complete_no_ngram() {
    let ngram = |n, history: &[u32]| {
        let sampler = Sampler::from_steps(vec![SamplingStep::NoRepeatNgram(n)], Some(0)).unwrap();
        let probabilities = sampler.probabilities(&[0.0; 4], history).unwrap();
        (0u32..).zip(probabilities).filter(|(_, p)| *p == 0.0).map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert!(ngram(3, &[]).is_empty());
    assert!(ngram(3, &[1, 2]).is_empty());
    assert_eq!(ngram(3, &[1, 2, 3, 1, 2]), [3]);
    assert_eq!(ngram(1, &[1, 2]), [1, 2]);
    assert_eq!(ngram(2, &[1, 1]), [1]);
}

/// Sorts everything, as the definition says.
fn sorted_top_p(logits: &[f32], p: f64) -> Vec<usize> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |id: usize| (f64::from(logits[id]) - f64::from(max)).exp();
    let total: f64 = (0..logits.len()).map(weight).sum();
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let mut mass = 0.0;
    let mut kept: Vec<usize> = Vec::new();
    for id in ids {
        if mass >= p * total {
            break;
        }
        kept.push(id);
        mass += weight(id);
    }
    kept.sort_unstable();
    kept
}

fn kept(step: SamplingStep, logits: &[f32]) -> Vec<usize> {
    let sampler = Sampler::from_steps(vec![step], Some(0)).unwrap();
    let probabilities = sampler.probabilities(logits, &[]).unwrap();
    (0..logits.len()).filter(|&id| probabilities[id] > 0.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selection_agrees_with_sorting(
        // few distinct values: many ties; long enough for several rounds of selection
        logits in prop::collection::vec((-20i8..20).prop_map(|x| f32::from(x) / 4.0), 1..3000),
        p in 0.05f32..0.99,
        k in 1usize..400,
    ) {
        prop_assert_eq!(kept(SamplingStep::TopP(p), &logits), sorted_top_p(&logits, f64::from(p)));
        let mut descending = logits.clone();
        descending.sort_by(|a, b| b.total_cmp(a));
        let smallest = descending[k.min(logits.len()) - 1];
        let largest: Vec<usize> = (0..logits.len()).filter(|&id| logits[id] >= smallest).collect();
        prop_assert_eq!(kept(SamplingStep::TopK(k), &logits), largest);
    }

    #[test]
    fn no_logits_make_it_panic(
        logits in prop::collection::vec(any::<f32>(), 0..50),
        history in prop::collection::vec(0u32..60, 0..20),
        temperature in 0f32..3.0,
        top_p in 0.01f32..1.0,
    ) {
        let options = SamplingOptions {
            temperature,
            top_k: Some(5),
            top_p: Some(top_p),
            min_p: Some(0.1),
            repeat_penalty: Some(1.2),
            seed: Some(1),
        };
        let token = Sampler::new(&options).unwrap().sample(&logits, &history);
        if let Ok(token) = token {
            prop_assert!(logits[token as usize].is_finite());
        }
    }
}
