//! The macro that makes tests of a prototype.

/// Tests a prototype against a golden file on every backend.
///
/// ```text
/// golden_test!(NAME, FILE, TOLERANCE, PROTOTYPE);
/// golden_test!(NAME, FILE, TOLERANCE, PROTOTYPE, autodiff);
/// ```
///
/// - `NAME`: the module that the tests are put in.
/// - `FILE`: the golden file, relative to the `Cargo.toml` of the crate; anything that is
///   `AsRef<Path>`.
/// - `TOLERANCE`: a [`Tolerance`] or [`Tolerances`].
/// - `PROTOTYPE`: path of a `fn prototype<B: Backend>(device: &B::Device, capture: &mut Capture<B>)`.
///
/// The tests are `NAME::cpu`, `NAME::candle`, `NAME::wgpu_spirv` (on a Mac `NAME::wgpu_msl`) and
/// `NAME::wgpu_wgsl`; with `autodiff` also `NAME::autodiff_cpu`, `NAME::autodiff_candle` and
/// `NAME::autodiff_wgpu`, which run the prototype forwards on [`Autodiff`].
///
/// A test fails where the numbers differ, where there is no golden file (the message has the command
/// that makes it), and where a backend finds no adapter. [`BLESS`] and [`SKIP_ABSENT`] change the
/// last two. See [`testing`](crate::testing) for an example.
///
/// [`Autodiff`]: crate::backend::Autodiff
/// [`BLESS`]: crate::testing::BLESS
/// [`SKIP_ABSENT`]: crate::testing::SKIP_ABSENT
/// [`Tolerance`]: crate::testing::Tolerance
/// [`Tolerances`]: crate::testing::Tolerances
#[macro_export]
macro_rules! golden_test {
    ($name:ident, $file:expr, $tolerance:expr, $prototype:path $(,)?) => {
        $crate::golden_test!(@module $name, $file, $tolerance, $prototype, []);
    };
    ($name:ident, $file:expr, $tolerance:expr, $prototype:path, autodiff $(,)?) => {
        $crate::golden_test!(@module $name, $file, $tolerance, $prototype, [
            autodiff_cpu: AutodiffCpu,
            autodiff_candle: AutodiffCandle,
            autodiff_wgpu: AutodiffWgpu,
        ]);
    };
    (@module $name:ident, $file:expr, $tolerance:expr, $prototype:path,
     [$($more:ident: $target:ident,)*]) => {
        #[cfg(test)]
        mod $name {
            #[allow(unused_imports)] // the arguments may be spelt in full
            use super::*;

            struct GoldenPrototype;

            impl $crate::testing::Prototype for GoldenPrototype {
                fn run<B: $crate::Backend>(
                    &self,
                    device: &B::Device,
                    capture: &mut $crate::testing::Capture<B>,
                ) {
                    $prototype(device, capture);
                }
            }

            #[track_caller]
            fn golden_test(target: $crate::testing::Target) {
                let test = $crate::testing::GoldenTest {
                    root: env!("CARGO_MANIFEST_DIR"),
                    package: env!("CARGO_PKG_NAME"),
                    module: module_path!(),
                };
                $crate::testing::run_golden_test(
                    test, $file, $tolerance, target, &GoldenPrototype,
                );
            }

            $crate::golden_test!(@tests
                cpu: Cpu,
                candle: Candle,
                #[cfg(not(target_os = "macos"))] wgpu_spirv: WgpuSpirv,
                #[cfg(target_os = "macos")] wgpu_msl: WgpuMsl,
                wgpu_wgsl: WgpuWgsl,
                $($more: $target,)*
            );
        }
    };
    (@tests $($(#[$host:meta])* $test:ident: $target:ident,)*) => {$(
        $(#[$host])*
        #[test]
        fn $test() {
            golden_test($crate::testing::Target::$target);
        }
    )*};
}
