package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skiff-node/skiff/imageservice"
)

// Client speaks to a server. Its errors are those of the server: errors.Is finds the sentinels of imageservice.
type Client struct {
	http   *http.Client
	socket string
}

// NewClient returns a client of the server on that unix socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, socket: socket}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns every image, ordered by id.
func (c *Client) List(ctx context.Context) ([]imageservice.Image, error) {
	var all []imageservice.Image
	err := c.call(ctx, http.MethodGet, "/v1/images", nil, &all)
	return all, err
}

// Get finds an image by reference, digest or id.
func (c *Client) Get(ctx context.Context, ref string) (imageservice.Image, error) {
	var img imageservice.Image
	if ref == "" {
		return img, fmt.Errorf("%w: it is empty", imageservice.ErrInvalidReference)
	}
	err := c.call(ctx, http.MethodGet, "/v1/images?"+refs(ref), nil, &img)
	return img, err
}

// Explain says how a reference would be pulled. See imageservice.Explainer.
func (c *Client) Explain(ctx context.Context, ref string, probe bool) (imageservice.Explanation, error) {
	var x imageservice.Explanation
	q := url.Values{"ref": {ref}, "probe": {strconv.FormatBool(probe)}}
	err := c.call(ctx, http.MethodGet, "/v1/explain?"+q.Encode(), nil, &x)
	return x, err
}

// Remove deletes every name of the image that ref means.
func (c *Client) Remove(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images?"+refs(ref), nil, nil)
}

// Import reads an archive and returns the images in it.
func (c *Client) Import(ctx context.Context, r io.Reader) ([]imageservice.Image, error) {
	var images []imageservice.Image
	err := c.call(ctx, http.MethodPut, "/v1/archive", r, &images)
	return images, err
}

// Export writes the images that names mean as one archive.
func (c *Client) Export(ctx context.Context, w io.Writer, names []string) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/archive?"+refs(names...), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export images: the archive is incomplete: %w", err)
	}
	return nil
}

// Pull fetches an image. Progress is called from the calling goroutine.
func (c *Client) Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return imageservice.Image{}, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/pull", bytes.NewReader(body))
	if err != nil {
		return imageservice.Image{}, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var m message
		if err := lines.Decode(&m); err != nil {
			return imageservice.Image{}, fmt.Errorf("pull %s: the image service went away: %w", r.Reference, err)
		}
		switch {
		case m.Error != nil:
			return imageservice.Image{}, m.Error.asError()
		case m.Image != nil:
			return *m.Image, nil
		case m.Progress != nil && r.Progress != nil:
			r.Progress(*m.Progress)
		}
	}
}

func refs(names ...string) string { return url.Values{"ref": names}.Encode() }

// call does a request with a JSON reply, or none.
func (c *Client) call(ctx context.Context, method, path string, body io.Reader, into any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read reply of the image service: %w", err)
	}
	return nil
}

// do does a request and returns a reply that is not an error.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://images"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("ask the image service on %s: %w", c.socket, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var f Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&f); err != nil || f.Message == "" {
		return nil, fmt.Errorf("the image service on %s replied %s", c.socket, resp.Status)
	}
	return nil, f.asError()
}
