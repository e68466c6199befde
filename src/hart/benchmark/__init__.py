"""What a model costs in time and memory on a machine, part by part, compared with the least that the machine allows."""
