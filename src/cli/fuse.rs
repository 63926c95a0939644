//! `metal-candle fuse`: a model with adapters merged into it.

use metal_candle::{
    adapters::{Adapter, fuse},
    models::DecoderConfig,
    quant::Encoding,
};

use super::{
    Failure,
    args::{DtypeChoice, FuseArgs},
    model,
};

/// Merges, and says on standard error what is not as one might expect.
pub fn run(args: &FuseArgs) -> Result<(), Failure> {
    let base = model::checkpoint(Some(&args.model), None, Encoding::F16)?;
    let config = DecoderConfig::from_json(base.config(), base.config_path())?;
    let adapters = args
        .adapter
        .iter()
        .map(|chosen| Ok((Adapter::open_for(&chosen.path, &config)?, chosen.scale)));
    let adapters = adapters.collect::<Result<Vec<_>, Failure>>()?;
    let adapters: Vec<_> = adapters.iter().map(|(adapter, scale)| (adapter, *scale)).collect();
    let encoding = match args.dtype {
        DtypeChoice::Auto => None,
        DtypeChoice::F32 => Some(Encoding::F32),
        DtypeChoice::F16 => Some(Encoding::F16),
    };
    let fused = fuse::fuse(&base, &adapters, &args.out, encoding)?;
    for note in &fused.notes {
        eprintln!("{note}");
    }
    let (merged, tensors) = (fused.merged, fused.tensors);
    eprintln!("{}: {merged} of {tensors} tensors changed", args.out.display());
    Ok(())
}
