"""What `w2s expo check` looks at, a module for each kind of thing: files, configs, names, tensors,
tokenizers, the recipe, the output. Each yields `w2s.preflight.finding.Finding`s."""
