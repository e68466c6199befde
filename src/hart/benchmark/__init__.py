"""What a model costs in time and memory on a machine, part by part, beside the least that the machine allows."""
