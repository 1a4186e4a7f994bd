"""gear measured against bare services and every other tool, in one run on one test host."""
