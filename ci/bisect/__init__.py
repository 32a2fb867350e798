"""Find the change that broke a model: over the subject's commits, a library's versions, or the Hub's revisions."""
