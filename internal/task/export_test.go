package task

// What the tests reach that no other package may.

// Check is the check of payloads.
var Check = check

// SweepLeases is one round of Run's look at leases.
var SweepLeases = (*Service).sweepLeases
