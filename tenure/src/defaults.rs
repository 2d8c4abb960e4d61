//! The backends of this build.

use std::sync::Arc;

use tenure_core::{
    memory::MemoryFactory,
    registry::{Factory, Registry},
};

/// Returns a registry with every backend of this build. [`Registry::register`] adds another backend.
#[must_use]
pub fn default_registry() -> Registry {
    let mut registry = Registry::new();
    add(&mut registry, Arc::new(MemoryFactory::new()));
    #[cfg(feature = "etcd")]
    add(&mut registry, Arc::new(tenure_etcd::EtcdFactory::new()));
    #[cfg(not(feature = "etcd"))]
    for scheme in ["etcd", "etcds"] {
        registry.absent(scheme, "etcd");
    }
    #[cfg(feature = "file")]
    add(&mut registry, Arc::new(tenure_file::FileFactory::new()));
    #[cfg(not(feature = "file"))]
    registry.absent("file", "file");
    #[cfg(feature = "redis")]
    add(&mut registry, Arc::new(tenure_redis::RedisFactory::new()));
    #[cfg(not(feature = "redis"))]
    for scheme in [
        "redis",
        "redis+cluster",
        "redis+sentinel",
        "redis+unix",
        "rediss",
        "rediss+cluster",
        "rediss+sentinel",
    ] {
        registry.absent(scheme, "redis");
    }
    #[cfg(feature = "zookeeper")]
    add(
        &mut registry,
        Arc::new(tenure_zookeeper::ZooKeeperFactory::new()),
    );
    #[cfg(not(feature = "zookeeper"))]
    for scheme in ["zookeeper", "zookeepers"] {
        registry.absent(scheme, "zookeeper");
    }
    registry
}

fn add(registry: &mut Registry, factory: Arc<dyn Factory>) {
    let added = registry.register(factory);
    debug_assert!(added.is_ok(), "the schemes of this crate are distinct");
}
