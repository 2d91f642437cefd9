"""The ops, one file each: docstring, schema, checks, fake, reference, tolerance, example inputs."""
