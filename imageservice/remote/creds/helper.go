package creds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	helperTimeout = 30 * time.Second
	// helperDelay is how long what a helper started may hold its output after it was told to end.
	helperDelay = 2 * time.Second
)

// askHelper runs docker-credential-<name> get. Not knowing the server is no error. The key of the configuration that
// names the helper is for messages.
func askHelper(ctx context.Context, name, server, key string) (Credential, error) {
	source := fmt.Sprintf("%s %q for %q", key, name, server)
	if name != filepath.Base(name) || name == "" || name == ".." {
		return Credential{}, fmt.Errorf("%s: it is not a plain name", source)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(server), helperDelay
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return Credential{}, fmt.Errorf("%s: there is no docker-credential-%s on the PATH of this server: install it, or remove the entry: %w", source, name, err)
	case ctx.Err() != nil:
		return Credential{}, fmt.Errorf("%s: no answer within %s: %w", source, helperTimeout, ctx.Err())
	case err != nil && bytes.Contains(append(out, stderr.Bytes()...), []byte("credentials not found")):
		return Credential{}, nil
	case err != nil:
		return Credential{}, fmt.Errorf("%s: %w: %s", source, err, firstLine(out, stderr.Bytes()))
	}
	var reply struct{ Username, Secret string }
	if err := json.Unmarshal(out, &reply); err != nil {
		// The reply itself may hold the secret.
		return Credential{}, fmt.Errorf("%s: the reply is not JSON with Username and Secret", source)
	}
	if reply.Username == "<token>" {
		return Credential{Secret: reply.Secret, Source: source}, nil
	}
	return Credential{Username: reply.Username, Secret: reply.Secret, Source: source}, nil
}

// firstLine is what a helper that failed has to say; the protocol puts that on standard output.
func firstLine(streams ...[]byte) string {
	for _, s := range streams {
		if text, _, _ := strings.Cut(strings.TrimSpace(string(s)), "\n"); text != "" {
			return text[:min(len(text), 200)]
		}
	}
	return "it said nothing"
}
