//! The command `tenure` with an additional backend. `serve ADDRESS` starts a server for it, with the
//! password from `LINE_PASSWORD`.

use std::{process::ExitCode, sync::Arc};

use tenure_line::{LineFactory, server};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match (arguments.next().as_deref(), arguments.next()) {
        (Some("serve"), Some(address)) => serve(&address).map_err(|error| error.to_string()),
        _ => {
            let mut registry = tenure::default_registry();
            match registry.register(Arc::new(LineFactory::default())) {
                Ok(_) => return tenure_cli::run(std::env::args_os(), &registry),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenure: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(address: &str) -> std::io::Result<()> {
    let password = std::env::var("LINE_PASSWORD").unwrap_or_default();
    let bound = server::serve(address, password).await?;
    println!("listening on {bound}");
    std::future::pending().await
}
