// Package oracle compares the scheduler's decisions with those of upstream's own plugins on random clusters: each node must
// be refused for the same reasons, and each node that is left must have the same score. It holds tests only.
package oracle
