mod cluster;
mod convergence;
mod cron_jobs;
mod eviction;
mod jobs;
mod workloads;
