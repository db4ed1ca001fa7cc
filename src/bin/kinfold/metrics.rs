//! `metrics`: figures of a device.

use std::path::Path;

use kinfold::control::Method;
use kinfold::control::forms::{MetricForm, MetricsForm};
use kinfold::control::params::NoParams;

use crate::failure::Failure;
use crate::output::Output;
use crate::target::Target;

pub async fn run(home: &Path, output: &Output) -> Result<(), Failure> {
    let target = Target::open(home).await?;
    let answer = target.call(Method::Metrics, &NoParams {}).await;
    let is_own = target.is_own();
    target.close().await?;
    let form: MetricsForm = answer?;
    if output.is_json() {
        return output.json(&form);
    }
    let rows = |metric: &MetricForm| -> Vec<[String; 3]> {
        let row = |sample: &kinfold::control::forms::SampleForm| {
            let labels: Vec<String> =
                sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            [metric.name.clone(), labels.join(" "), sample.value.to_string()]
        };
        metric.samples.iter().map(row).collect()
    };
    output.table(["figure", "of", "value"], form.metrics.iter().flat_map(rows).collect())?;
    if is_own {
        output.note("hint: no node runs here, so what is counted since its start is zero");
    }
    Ok(())
}
