"""What every sampler, scheduler, reporter, journal and catalog entry must keep to."""
