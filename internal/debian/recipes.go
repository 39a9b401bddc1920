package debian

import (
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Tiny is busybox's static web server on port 8080: what a small compiled app
// weighs.
func Tiny() (Recipe, error) {
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		bb, err = os.ReadFile("/usr/bin/busybox")
	}
	if err != nil {
		return Recipe{}, err
	}
	return Recipe{
		Files: map[string][]byte{
			"/bin/busybox":    bb,
			"/www/index.html": []byte("hello\n"),
		},
		Config: v1.Config{Cmd: []string{"/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"}, WorkingDir: "/"},
	}, nil
}

// Node is plain Node.js with an HTTP server on port 8080.
func Node() Recipe {
	return Recipe{
		Packages: []string{"nodejs", "busybox-static"},
		Users:    map[string]int{"node": 1000},
		Files:    map[string][]byte{"/app/server.js": []byte(nodeServer)},
		Config:   v1.Config{Cmd: []string{"/usr/bin/node", "/app/server.js"}, WorkingDir: "/app", User: "node"},
	}
}

const nodeServer = `const http = require('http');
let served = 0;
http.createServer((req, res) => {
  res.setHeader('content-type', 'text/plain');
  res.end('node ' + (++served) + '\n');
}).listen(8080);
process.on('SIGINT', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
`

// Express is Node.js with the Express framework, installed with npm into dir.
func Express(dir string) (Recipe, error) {
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "express")); err != nil {
		cmd := exec.Command("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir, "express@4")
		if b, err := cmd.CombinedOutput(); err != nil {
			return Recipe{}, &exec.Error{Name: "npm install express: " + string(b), Err: err}
		}
	}
	r := Node()
	r.Files = map[string][]byte{"/app/server.js": []byte(expressServer)}
	r.Trees = map[string]string{"/app/node_modules": filepath.Join(dir, "node_modules")}
	return r, nil
}

const expressServer = `const app = require('express')();
let served = 0;
app.get('/', (req, res) => res.type('text').send('express ' + (++served) + '\n'));
app.listen(8080);
process.on('SIGINT', () => process.exit(0));
`

// Nginx is Debian's nginx on port 80 with its own configuration.
func Nginx() Recipe {
	return Recipe{
		Packages: []string{"nginx-light", "busybox-static"},
		Users:    map[string]int{"www-data": 33},
		Dirs:     map[string]int{"/var/log/nginx": 33, "/var/lib/nginx": 33, "/run": 0},
		Files: map[string][]byte{
			"/var/www/html/index.html":   []byte("nginx in a machine\n"),
			"/etc/nginx/conf.d/web.conf": []byte("server { listen 80; listen [::]:80; root /var/www/html; }\n"),
		},
		Config: v1.Config{Cmd: []string{"/usr/sbin/nginx", "-g", "daemon off; error_log stderr;"}, WorkingDir: "/", StopSignal: "SIGQUIT"},
	}
}

// Postgres is Debian's PostgreSQL; the cluster is made in /data at start, as
// user postgres.
func Postgres() Recipe {
	return Recipe{
		Packages: []string{"postgresql-15", "busybox-static", "dash"},
		Users:    map[string]int{"postgres": 101},
		Dirs:     map[string]int{"/data": 101, "/var/run/postgresql": 101, "/tmp": 101},
		Files: map[string][]byte{"/start": []byte(`#!/bin/busybox sh
set -e
export PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin
[ -f /data/PG_VERSION ] || initdb -D /data -A trust --no-locale -E UTF8
exec postgres -D /data -c listen_addresses='*'
`)},
		Config: v1.Config{Cmd: []string{"/start"}, User: "postgres", WorkingDir: "/"},
	}
}
