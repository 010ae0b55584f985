mod cluster;
mod convergence;
mod cron_jobs;
mod jobs;
mod workloads;
